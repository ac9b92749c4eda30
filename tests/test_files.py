"""Files that are whole or not there at all."""

import pytest

from bigcl.files import PatientFile, check_writable, replacing


def test_the_new_content_comes_when_it_is_whole(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_content(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as partial:
        partial.write_text("ne")
        raise ZeroDivisionError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_waits(tmp_path, no_room):
    path = tmp_path / "file"
    path.write_bytes(b"ab")
    file = PatientFile(path, end=2)
    with no_room(4):
        for part in (b"cd", b"ef"):
            file.write(part)
            file.flush()
        assert path.read_bytes()[:4] == b"abcd"
    file.close()
    assert path.read_bytes() == b"abcdef"


def test_a_folder_that_can_be_written_is_left_as_it_was(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        check_writable(tmp_path / "file" / "run")

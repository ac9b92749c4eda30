"""A prepared folder is whole or not there, and built once however many ask for it."""

import multiprocessing
import time

import pytest

from bigcl.data.cache import cache_root, prepare


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("BIGCL_DATA", str(tmp_path / "root"))
    return tmp_path / "root"


def write(folder):
    (folder / "part").mkdir()
    (folder / "part" / "data").write_text("whole")


def refuse(folder):
    raise AssertionError("built again")


def test_cache_root(monkeypatch, root, tmp_path):
    assert cache_root() == root
    monkeypatch.delenv("BIGCL_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "bigcl"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "bigcl"


def test_a_folder_is_built_once(root):
    folder = prepare("things", {"size": (1, 2)}, write)
    assert folder.parent == root and folder.name.startswith("things-")
    assert (folder / "part" / "data").read_text() == "whole"
    assert prepare("things", {"size": [1, 2]}, refuse) == folder


def test_another_recipe_is_another_folder():
    assert prepare("things", {"size": 1}, write) != prepare("things", {"size": 2}, write)


def test_an_interrupted_build_leaves_nothing_usable(root):
    def interrupted(folder):
        (folder / "data").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare("things", {}, interrupted)
    assert not [f for f in root.iterdir() if f.suffix not in (".partial", ".lock")]
    folder = prepare("things", {}, write)
    assert sorted(f.name for f in folder.iterdir()) == ["manifest.json", "part"]
    assert not list(root.glob("*.partial"))


def test_a_damaged_folder_is_built_anew():
    folder = prepare("things", {}, write)
    for damage in (
        lambda: (folder / "part" / "data").write_text("who"),
        lambda: (folder / "part" / "data").unlink(),
        lambda: (folder / "manifest.json").write_text('{"recipe"'),
        lambda: (folder / "manifest.json").unlink(),
    ):
        damage()
        prepare("things", {}, write)
        assert (folder / "part" / "data").read_text() == "whole"


def slow_write(folder):
    with open(folder.parent / "builds", "a") as log:
        log.write("x")
    time.sleep(0.3)
    write(folder)


def prepare_slowly():
    prepare("things", {}, slow_write)


def test_of_two_processes_one_builds_and_the_other_waits(root):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=prepare_slowly) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=30)
        assert process.exitcode == 0
    assert (root / "builds").read_text() == "x"
    prepare("things", {}, refuse)

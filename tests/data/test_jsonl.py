"""JSON lines: any file is either read, line by line, as JSON reads it, or its bad lines are named; nothing else."""

import json
import os
import pathlib
import pickle

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bigcl.data import records
from bigcl.data.records import NamedFiles
from bigcl.data.sources import BadRecord, metadata
from bigcl.data.sources.jsonl import JSONL

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
    lambda part: st.one_of(st.lists(part, max_size=3), st.dictionaries(st.text(), part, max_size=3)),
    max_leaves=5,
)
OBJECTS = st.dictionaries(st.text(max_size=5), JSON, max_size=4)
GOOD_LINES = OBJECTS.map(lambda value: json.dumps(value, ensure_ascii=False).encode())
BLANK = st.sampled_from([b"", b" ", b"\t\r", b"  "])


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("jsonl") / "a.jsonl"


@settings(max_examples=100, deadline=None)
@given(
    lines=st.lists(st.one_of(GOOD_LINES, BLANK), max_size=8),
    end=st.sampled_from([b"", b"\n", b"\r\n", b"\n\n"]),
    bom=st.booleans(),
)
def test_lines_are_what_json_reads(path, lines, end, bom):
    path.write_bytes(b"\xef\xbb\xbf" * (bom and bool(lines) and bool(lines[0].strip())) + b"\n".join(lines) + end)
    source = JSONL(str(path))
    expected = [json.loads(line) for line in lines if line.strip()]
    assert [source[i] for i in range(len(source))] == expected


PIECES = [
    b'{"a": 1}',
    b"{",
    b"}",
    b'"',
    b"\n",
    b"[1]",
    b"NaN",
    b'{"a": NaN}',
    b"\xff",
    b"\x00",
    b'{"a": "\\ud800"}',
    b"[" * 3000,
]


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.lists(st.sampled_from(PIECES), max_size=10).map(b"".join)))
def test_any_bytes_are_read_or_named_as_bad(path, content):
    path.write_bytes(content)
    source = JSONL(str(path))
    bad = 0
    for i in range(len(source)):
        try:
            assert isinstance(source[i], dict)
            json.dumps(source[i], ensure_ascii=False).encode()
        except BadRecord as error:
            bad += 1
            assert (error.key, error.shard) == (str(i), str(path)) and content[error.offset : error.offset + 1] != b"\n"
    assert len(source) == sum(1 for line in content.split(b"\n") if line.strip(b" \t\r\n"))
    assert metadata(source, ["a"], 0, len(source))["a"].count(None) >= bad


def test_bad_lines_say_what_and_where(tmp_path):
    (tmp_path / "b.jsonl").write_bytes(b'{"a": 1}\n{"a": \n[3]\n{"a": "\xff"}\n{"b": {"c": 5}}')
    source = JSONL(str(tmp_path))
    for index, offset, reason in (
        (1, 9, "not JSON: Expecting value"),
        (2, 16, "not a JSON object, but list"),
        (3, 20, "utf-8"),
    ):
        with pytest.raises(BadRecord, match=reason) as caught:
            source[index]
        assert caught.value.offset == offset and pickle.loads(pickle.dumps(caught.value)).reason == caught.value.reason
    assert metadata(source, ["a", "b.c"], 0, 5) == {
        "a": [1, None, None, None, None],
        "b.c": [None, None, None, None, 5],
    }
    assert metadata(source, ["a"], 4, 5) == {"a": [None]}


@pytest.fixture
def named(tmp_path):
    """A table whose lines name files, good and bad."""
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "x.png").write_bytes(b"picture")
    (tmp_path / "secret").write_bytes(b"secret")
    os.symlink(tmp_path / "secret", folder / "link")
    names = [
        "sub/x.png",
        str(folder / "sub" / "x.png"),
        "../secret",
        "/etc/hostname",
        "link",
        "sub",
        "gone.png",
        "",
        None,
        3,
        "a\0b",
    ]
    (folder / "a.jsonl").write_text("".join(json.dumps({"path": name}) + "\n" for name in names))
    return folder


def test_named_files_stay_inside(named):
    source = JSONL(str(named), files={"image": "path"})
    assert source[0] == {"path": "sub/x.png", "image": b"picture"} and source[1]["image"] == b"picture"
    for index, reason in (
        (2, "lies outside"),
        (3, "lies outside"),
        (4, "lies outside"),
        (5, "directory"),
        (6, "gone.png"),
    ):
        with pytest.raises(BadRecord, match=reason):
            source[index]
    for index in range(7, len(source)):
        with pytest.raises(BadRecord):
            source[index]
    wider = JSONL(str(named), files={"image": "path"}, root=str(named.parent))
    assert wider[1]["image"] == b"picture"
    with pytest.raises(BadRecord, match=r"data/sub/x\.png|No such file"):
        wider[0]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from(["..", ".", "sub", "x.png", "link", "secret", "", "~", "/", "\0", "data"]), max_size=6
    ).map("/".join)
    | st.text(max_size=20)
)
def test_no_name_leads_out(named, name):
    try:
        content = NamedFiles({}, str(named)).read(name, str(named / "a.jsonl"))
    except (OSError, ValueError):
        return
    assert content != b"secret" and content in [f.read_bytes() for f in named.rglob("*") if f.is_file()]


def test_a_file_that_changes_is_read_anew(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n')
    first = JSONL(str(path))
    assert first[0] == {"a": 1}
    replacement = pathlib.Path(f"{path}.new")
    replacement.write_text('{"b": 22}\n{"b": 3}\n')
    os.replace(replacement, path)
    assert [JSONL(str(path))[i] for i in range(2)] == [{"b": 22}, {"b": 3}]
    assert first[0] == {"a": 1}  # it still holds the old file
    records.open_file.cache_clear()
    with pytest.raises(BadRecord, match="has changed"):
        first[0]
    path.unlink()
    with pytest.raises(BadRecord, match="No such file"):
        first[0]


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no \*\.jsonl files here"):
        JSONL(str(tmp_path))
    (tmp_path / "a.jsonl").touch()
    assert len(JSONL(str(tmp_path))) == 0

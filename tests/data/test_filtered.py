"""A filtered source has the examples for which the expression holds, found once."""

import json
import pickle

import pytest

from bigcl.data.expression import ExpressionError
from bigcl.data.loader import Loader
from bigcl.data.sources import filtered
from bigcl.data.sources.arrayrecord import write_arrayrecord
from bigcl.data.sources.filtered import Filtered
from bigcl.registry import ConfigError, build
from tests.data import formats

ROWS = [{"n": i, "language": ["en", "de", "fr"][i % 3], "meta": {"width": 10 * i}} for i in range(50)]
FILTER = "meta.width >= 200 and language in ['en', 'de']"
EXPECTED = [row for row in ROWS if row["meta"]["width"] >= 200 and row["language"] != "fr"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BIGCL_DATA", str(tmp_path / "cache"))


@pytest.fixture
def part(tmp_path):
    formats.write_jsonl(ROWS, tmp_path / "a.jsonl")
    return {"kind": "jsonl", "paths": str(tmp_path / "a.jsonl")}


def read(source):
    return [source[i] for i in range(len(source))]


@pytest.mark.parametrize("together", [1, 7, 1000])
def test_what_passes(part, monkeypatch, together):
    monkeypatch.setattr(filtered, "_TOGETHER", together)
    source = build("source", {"kind": "filtered", "source": part, "filter": FILTER})
    assert read(source) == EXPECTED and read(pickle.loads(pickle.dumps(source))) == EXPECTED
    with pytest.raises(IndexError):
        source[len(EXPECTED)]
    assert Loader(source, [], batch=4, seed=0).host_batch(0)["n"].shape == (4,)


def test_any_source_can_be_filtered(tmp_path):
    write_arrayrecord(ROWS, tmp_path / "r")
    assert read(Filtered({"kind": "arrayrecord", "paths": str(tmp_path / "r")}, FILTER)) == EXPECTED
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet", row_group_size=6)
    assert read(Filtered({"kind": "parquet", "paths": str(tmp_path)}, FILTER)) == EXPECTED


def test_found_once_for_each_state_of_the_data(part, tmp_path, monkeypatch):
    computed = []
    original = filtered.metadata
    monkeypatch.setattr(filtered, "metadata", lambda *args: (computed.append(args), original(*args))[1])
    for _ in range(2):
        Filtered(part, FILTER)
    assert len(computed) == 1
    Filtered(part, "n > 3")
    formats.write_jsonl(ROWS[:40], tmp_path / "a.jsonl")
    assert len(Filtered(part, FILTER)) == sum(row in ROWS[:40] for row in EXPECTED) and len(computed) == 3


def test_bad_records_have_no_fields(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"n": 5}) + "\n{broken\n" + json.dumps({"n": 7}) + "\n")
    part = {"kind": "jsonl", "paths": str(tmp_path)}
    assert read(Filtered(part, "n > 1")) == [{"n": 5}, {"n": 7}]
    assert len(Filtered(part, "n > 6 or n == null")) == 2


@pytest.mark.parametrize(
    "text, error, message",
    [
        ("widht > 3", ValueError, "no example has a field 'widht'"),
        ("n > 100", ValueError, "no example of 50 in .* has n > 100"),
        ("1 < 2", ValueError, "'1 < 2' reads no field"),
        ("n >", ConfigError, "expected a value, not the end"),
        ("n > 'a'", ExpressionError, "no order between a number and a text"),
    ],
)
def test_errors(part, text, error, message):
    for _ in range(2):  # a failure is not kept
        with pytest.raises(error, match=message):
            Filtered(part, text)

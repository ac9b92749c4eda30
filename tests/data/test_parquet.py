"""Parquet as pyarrow writes it: types, pictures, row groups, what is kept in memory, what is broken."""

import threading

import numpy as np
import pytest

from bigcl.data.sources import BadRecord, metadata
from bigcl.data.sources.parquet import Cache, Parquet

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def write(path, rows, schema=None, **options):
    pq.write_table(pa.Table.from_pylist(rows, schema), path, **options)
    return str(path)


def test_values(tmp_path):
    row = {
        "bytes": b"\x00\xff",
        "text": "größe",
        "int": 3,
        "float": 0.5,
        "bool": True,
        "none": None,
        "vector": [1.5, 2.5],
        "ids": [1, 2, 3],
        "gaps": [1, None],
        "texts": ["a", "b"],
        "nested": {"a": {"b": [0.5]}, "c": None},
    }
    found = Parquet(write(tmp_path / "a.parquet", [row]))[0]
    assert found["vector"].dtype == np.float64 and found["vector"].tolist() == [1.5, 2.5]
    assert found["ids"].dtype == np.int64 and found["ids"].flags.writeable
    assert found["nested"]["a"]["b"].tolist() == [0.5]
    plain = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in found.items() if k != "nested"}
    assert plain == {k: v for k, v in row.items() if k != "nested"}
    assert found["nested"]["c"] is None


def test_columns_and_named_files(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "x.png").write_bytes(b"picture")
    rows = [{"path": "pictures/x.png", "text": "a", "big": b"0" * 99}, {"path": "../x", "text": "b", "big": b""}]
    source = Parquet(write(tmp_path / "a.parquet", rows), columns=["text"], files={"image": "path"})
    assert source[0] == {"text": "a", "path": "pictures/x.png", "image": b"picture"}
    with pytest.raises(BadRecord, match=r"row 1 of row group 0: '\.\./x' lies outside"):
        source[1]
    with pytest.raises(ValueError, match=r"a\.parquet: no column 'txt', but path, text, big"):
        Parquet(str(tmp_path), columns=["txt"])


def test_pictures_of_hugging_face(tmp_path):
    (tmp_path / "x.png").write_bytes(b"file")
    images = [
        {"bytes": b"inside", "path": "gone.png"},
        {"bytes": None, "path": "x.png"},
        None,
        {"bytes": None, "path": "../y"},
    ]
    source = Parquet(write(tmp_path / "a.parquet", [{"image": image, "more": [image]} for image in images]))
    assert source[0] == {"image": b"inside", "more": [b"inside"]} and source[1] == {"image": b"file", "more": [b"file"]}
    assert source[2]["image"] is None
    with pytest.raises(BadRecord, match="lies outside"):
        source[3]


def test_row_groups_are_read_once_while_they_are_kept(tmp_path, monkeypatch):
    path = write(tmp_path / "a.parquet", [{"i": i, "pad": bytes(1000)} for i in range(100)], row_group_size=10)
    reads = []
    original = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda self, i, **kw: (reads.append(i), original(self, i, **kw))[1]
    )
    order = np.random.default_rng(0).permutation(100).tolist()
    kept = Parquet(path)
    assert [kept[i]["i"] for i in order] == order and sorted(reads) == list(range(10))
    reads.clear()
    tight = Parquet(path, cache=0)
    assert [tight[i]["i"] for i in range(100)] == list(range(100)) and reads == list(range(10))


def test_cache_is_bounded_and_shared_by_threads():
    table = pa.table({"x": np.zeros(1000)})
    cache, reads, barrier = Cache(3 * table.nbytes), [], threading.Barrier(8)

    def read(key):
        def make():
            reads.append(key)
            return table

        return make

    def work():
        barrier.wait()
        for key in range(20):
            cache.get(key, read(key))
            assert cache.bytes <= 4 * table.nbytes

    threads = [threading.Thread(target=work) for _ in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert set(reads) == set(range(20)) and len(cache.tables) == 3 and cache.bytes == 3 * table.nbytes
    with pytest.raises(OSError, match="broken"):
        cache.get("x", lambda: (_ for _ in ()).throw(OSError("broken")))
    assert cache.get("x", read("x")) is table


def test_metadata_reads_columns_alone(tmp_path):
    rows = [{"w": i if i % 3 else None, "m": {"lang": "en"}, "text": f"t{i}", "image": b"x"} for i in range(25)]
    source = Parquet(write(tmp_path / "a.parquet", rows, row_group_size=4))
    found = metadata(source, ["w", "m.lang", "text"], 3, 20)
    assert [None if np.isnan(w) else w for w in found["w"]] == [i if i % 3 else None for i in range(3, 20)]
    assert found["m.lang"] == ["en"] * 17 and found["text"] == [f"t{i}" for i in range(3, 20)]
    with pytest.raises(ValueError, match="no column 'width', but w, m, text, image"):
        metadata(source, ["width"], 0, 5)


def test_a_bad_text_costs_its_row_alone(tmp_path):
    buffers = pa.array([b"a", b"b\xff", b"c"], pa.binary()).buffers()
    raw = pa.StringArray.from_buffers(3, buffers[1], buffers[2])
    pq.write_table(pa.table({"text": raw, "n": [1, 2, 3]}), tmp_path / "a.parquet")
    source = Parquet(str(tmp_path))
    assert source[0]["text"] == "a" and source[2]["text"] == "c"
    with pytest.raises(BadRecord, match="utf-8"):
        source[1]
    assert metadata(source, ["text", "n"], 0, 3) == {"text": ["a", None, "c"], "n": [1, None, 3]}


def test_broken_files(tmp_path):
    path = tmp_path / "a.parquet"
    write(path, [{"x": bytes(np.random.default_rng(i).bytes(2000))} for i in range(20)], row_group_size=5)
    content = path.read_bytes()
    for broken in (content[:-100], b"", b"PAR1"):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"a\.parquet: not a whole Parquet file"):
            Parquet(str(path))
    path.write_bytes(content)
    source = Parquet(str(path))
    path.write_bytes(content + b"more")
    with pytest.raises(BadRecord, match="changed since"):
        source[0]
    path.unlink()
    with pytest.raises(BadRecord, match="No such file"):
        source[0]
    path.write_bytes(content[:4] + b"\xff" * 60 + content[64:])
    source = Parquet(str(path))
    with pytest.raises(BadRecord, match="row 0 of row group 0"):
        source[0]
    assert len(source[7]["x"]) == 2000


@pytest.mark.parametrize("size", [0, 1])
def test_small(tmp_path, size):
    source = Parquet(write(tmp_path / "a.parquet", [{"x": 1}] * size, pa.schema({"x": pa.int64()})))
    assert len(source) == size

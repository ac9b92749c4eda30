"""The same batches of the loader whatever the format, in threads, forked and spawned processes and after pickling."""

import concurrent.futures
import multiprocessing
import pickle

import numpy as np
import pytest

from bigcl.data.loader import Loader
from bigcl.data.sources.arrayrecord import write_arrayrecord
from bigcl.data.sources.emoji import Emoji
from bigcl.data.tokenizers import as_text
from bigcl.data.transforms.image import DecodeImage
from bigcl.data.transforms.text import Tokenize
from bigcl.registry import build
from tests.data import formats

COUNT = 60


class Letters:
    """Code points as token ids."""

    vocab_size, pad_id = 2**16, 0

    def __call__(self, text, length):
        return np.array([ord(c) for c in text.ljust(length, "\0")[:length]], np.int32)


@pytest.fixture(scope="module")
def rows():
    emoji = Emoji("test")
    return [{"code": e["code"], "image": e["image"], "text": e["text"]} for e in map(emoji.__getitem__, range(COUNT))]


def arrayrecord(rows, folder):
    write_arrayrecord(rows, folder, per_shard=25)
    return {"kind": "arrayrecord", "paths": str(folder)}


def jsonl(rows, folder):
    named = formats.write_pictures(rows, folder)
    formats.write_jsonl(named[:25], folder / "a.jsonl")
    formats.write_jsonl(named[25:], folder / "b.jsonl")
    return {"kind": "jsonl", "paths": str(folder), "files": {"image": "path"}}


def csv(rows, folder):
    named = formats.write_pictures(rows, folder)
    formats.write_csv(named[:25], folder / "a.csv")
    formats.write_csv(named[25:], folder / "b.csv")
    return {"kind": "csv", "paths": str(folder), "files": {"image": "path"}}


def parquet(rows, folder):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows[:25]), folder / "a.parquet", row_group_size=7)
    pq.write_table(pa.Table.from_pylist(rows[25:]), folder / "b.parquet", row_group_size=20)
    return {"kind": "parquet", "paths": str(folder)}


def parquet_of_hugging_face(rows, folder):
    import pyarrow as pa
    import pyarrow.parquet as pq

    structs = [{**row, "image": {"bytes": row["image"], "path": None}} for row in rows]
    pq.write_table(pa.Table.from_pylist(structs), folder / "a.parquet", row_group_size=10)
    return {"kind": "parquet", "paths": str(folder / "*.parquet"), "cache": 0}


def huggingface(rows, folder):
    """As `save_to_disk` writes it; tests/data/test_huggingface.py reads what the library itself wrote."""
    import pyarrow as pa

    table = pa.Table.from_pylist([{**row, "image": {"bytes": row["image"], "path": "x.png"}} for row in rows])
    names = [f"data-0000{i}-of-00002.arrow" for i in range(2)]
    for name, part in zip(names, (table.slice(0, 25), table.slice(25)), strict=True):
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(part, max_chunksize=9)
    (folder / "state.json").write_text(
        f'{{"_data_files": [{{"filename": "{names[0]}"}}, {{"filename": "{names[1]}"}}]}}'
    )
    return {"kind": "huggingface", "path": str(folder)}


def tfrecord(rows, folder):
    formats.write_tfrecord(rows[:25], folder / "x-train.tfrecord-00000-of-00002")
    formats.write_tfrecord(rows[25:], folder / "x-train.tfrecord-00001-of-00002")
    return {"kind": "tfrecord", "paths": str(folder)}


FORMATS = [arrayrecord, jsonl, csv, parquet, parquet_of_hugging_face, huggingface, tfrecord]


@pytest.fixture(params=FORMATS, ids=lambda f: f.__name__)
def part(request, rows, tmp_path, monkeypatch):
    monkeypatch.setenv("BIGCL_DATA", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    return request.param(rows, tmp_path / "data")


def loader(source):
    return Loader(source, [DecodeImage(), Tokenize(30, Letters())], batch=16, seed=3)


def digest(source):
    """What the examples hold."""
    return [(as_text(e["code"]), e["image"], as_text(e["text"])) for e in map(source.__getitem__, range(len(source)))]


def test_same_examples_and_batches(part, rows):
    source = build("source", part)
    assert digest(source) == [(r["code"], r["image"], r["text"]) for r in rows]
    expected = loader([dict(row) for row in rows])
    for step in (0, 1, 5):
        batch, reference = loader(source).host_batch(step), expected.host_batch(step)
        assert batch.keys() == reference.keys() == {"image", "text", "index"}
        assert all(np.array_equal(batch[k], reference[k]) for k in batch)


def test_indices_out_of_range(part):
    source = build("source", part)
    for index in (len(source), -1) if part["kind"] != "arrayrecord" else ():
        with pytest.raises(IndexError):
            source[index]


def test_threads_and_pickles(part):
    source = build("source", part)
    expected = digest(source)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(source.__getitem__, [i * 7 % COUNT for i in range(4 * COUNT)]))
    assert [e["image"] for e in found] == [expected[i * 7 % COUNT][1] for i in range(4 * COUNT)]
    assert digest(pickle.loads(pickle.dumps(source))) == expected


def test_forked_process(part):
    source = build("source", part)
    expected = digest(source)  # caches are warm, handles open
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        assert pool.submit(digest, source).result(timeout=60) == expected


@pytest.mark.slow
def test_spawned_process(part):
    source = build("source", part)
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(len, source).result(timeout=60) == COUNT
        assert pool.submit(source.__getitem__, 7).result(timeout=60)["image"] == source[7]["image"]

"""The same batches of the loader whatever the format, in threads, forked and spawned processes and after pickling."""

import concurrent.futures
import multiprocessing
import pathlib
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_datasets

from bigcl.data.convert import convert
from bigcl.data.loader import BESIDE, Loader, bad_records
from bigcl.data.pipeline import open_pipeline
from bigcl.data.sources.arrayrecord import ArrayRecord, write_arrayrecord
from bigcl.data.sources.emoji import Emoji
from bigcl.data.sources.openclipart import FOLDER, OpenClipart
from bigcl.data.tokenizers import as_text
from bigcl.data.transforms.image import DecodeImage, Resize
from bigcl.data.transforms.text import Tokenize
from bigcl.experiment import Experiment
from bigcl.log import read_rows
from bigcl.mesh import batch_sharding
from bigcl.registry import build
from bigcl.train import run
from tests.data import formats

COUNT, CLIP_ART = 60, 200


class Letters:
    """Code points as token ids."""

    vocab_size, pad_id = 2**16, 0

    def __call__(self, text, length):
        return np.array([ord(c) for c in text.ljust(length, "\0")[:length]], np.int32)


@pytest.fixture(scope="module", params=["emoji", pytest.param("openclipart", marks=pytest.mark.slow)])
def rows(request, tmp_path_factory):
    """Small real pictures with texts: emoji, or clip art that `convert` has read and reduced."""
    if request.param == "emoji":
        emoji = Emoji("test")
        examples = map(emoji.__getitem__, range(COUNT))
        return [{"code": e["code"], "image": e["image"], "text": e["text"]} for e in examples]
    if not pathlib.Path(FOLDER).is_dir():
        pytest.skip("the package openclipart-png is not installed")
    folder = tmp_path_factory.mktemp("openclipart")
    convert(OpenClipart("test"), folder, "arrayrecord", per_shard=CLIP_ART, part=(0, 1000), size=48)  # one shard
    source = ArrayRecord(str(folder))
    examples = map(source.__getitem__, range(CLIP_ART))
    return [{"code": e["key"], "image": e["image"], "text": e["text"]} for e in examples]


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


def webdataset(rows, folder):
    import webdataset

    for name, part in (("a.tar", rows[:25]), ("b.tar", rows[25:])):
        with webdataset.TarWriter(str(folder / name)) as writer:
            for row in part:
                code = row["code"].encode()
                writer.write(
                    {"__key__": row["code"].replace(".", "_"), "png": row["image"], "txt": row["text"], "code": code}
                )
    return {"kind": "webdataset", "shards": str(folder)}


class BigclFormats(tensorflow_datasets.core.GeneratorBasedBuilder):
    """Rows in their order, with pictures as they are encoded."""

    VERSION = tensorflow_datasets.core.Version("1.0.0")
    code_path = None  # there is no package with checksums beside this file
    rows = ()

    def _info(self):
        text = tensorflow_datasets.features.Text()
        features = tensorflow_datasets.features.FeaturesDict({"code": text, "image": text, "text": text})
        return tensorflow_datasets.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield from enumerate(self.rows)


def tfds(rows, folder):
    BigclFormats.rows = rows
    BigclFormats(data_dir=str(folder), file_format="array_record").download_and_prepare()
    return {"kind": "tfds", "name": "bigcl_formats", "data_dir": str(folder)}


def converted_to_arrayrecord(rows, folder):
    convert(rows, folder, "arrayrecord", per_shard=25)
    return {"kind": "arrayrecord", "paths": str(folder)}


def converted_to_webdataset(rows, folder):
    convert([{**row, "code": row["code"].encode()} for row in rows], folder, "webdataset", per_shard=25)
    members = {"image": ["png"], "text": ["txt"], "code": ["code.bin"]}
    return {"kind": "webdataset", "shards": str(folder), "members": members}


FORMATS = [
    arrayrecord,
    converted_to_arrayrecord,
    converted_to_webdataset,
    jsonl,
    csv,
    parquet,
    parquet_of_hugging_face,
    huggingface,
    tfrecord,
    webdataset,
    tfds,
]


@pytest.fixture(params=FORMATS, ids=lambda f: f.__name__)
def part(request, rows, tmp_path, monkeypatch):
    monkeypatch.setenv("BIGCL_DATA", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    return request.param(rows, tmp_path / "data")


def loader(source):
    return Loader(source, [DecodeImage(), Resize([48, 48]), Tokenize(30, Letters())], batch=16, seed=3)


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


@pytest.mark.parametrize("make", FORMATS, ids=lambda f: f.__name__)
def test_a_broken_picture_is_listed_with_its_file(make, rows, tmp_path, monkeypatch):
    monkeypatch.setenv("BIGCL_DATA", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    broken = [*rows[:30], {**rows[30], "image": b"\x89PNG, or not"}, *rows[31:]]
    source = build("source", make(broken, tmp_path / "data"))
    records = [record for step in range(-(-len(rows) // 16)) for record in bad_records(loader(source).host_batch(step))]
    record = next(record for record in records if record["index"] == 30)
    assert "no picture can be made of it" in record["reason"]
    assert pathlib.Path(record["shard"]).parent.is_relative_to(tmp_path / "data") and record["source"] == source.name
    if make in (jsonl, csv, tfrecord, webdataset, converted_to_webdataset):
        assert pathlib.Path(record["shard"]).stat().st_size > record["offset"] > 0


def test_indices_out_of_range(part):
    source = build("source", part)
    for index in (len(source), -1):
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
    if part["kind"] == "tfds":
        pytest.skip("the threads of array_record do not survive a fork; the loader spawns its workers")
    source = build("source", part)
    expected = digest(source)  # caches are warm, handles open
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        assert pool.submit(digest, source).result(timeout=60) == expected


@pytest.mark.slow
def test_spawned_process(part, rows):
    source = build("source", part)
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(len, source).result(timeout=60) == len(rows)
        assert pool.submit(source.__getitem__, 7).result(timeout=60)["image"] == source[7]["image"]


TOWERS = {
    "image": {"kind": "vit", "image_size": 24, "patch": 8, "width": 16, "depth": 1, "heads": 2, "embed_dim": 8},
    "text": {"kind": "text", "length": 12, "width": 16, "depth": 1, "heads": 2, "embed_dim": 8},
}


def training(source, rows, steps):
    """A config that trains on a source."""
    texts = {"kind": "arrays", "arrays": {"text": [row["text"] for row in rows]}}
    transforms = [{"kind": "resize", "size": [24, 24]}, {"kind": "tokenize", "length": 12}]
    return {
        "train": {"steps": steps, "batch": 16, "log_every": 1, "profile": 0},
        "data": {"source": source, "transforms": transforms},
        "tokenizer": {"kind": "bpe", "source": texts, "vocab_size": 300},
        "task": {"kind": "two_tower", "towers": TOWERS},
        "optim": {"optimizer": {"kind": "adamw"}, "lr": 1e-3},
    }


@pytest.fixture(scope="module")
def two_steps(rows, tmp_path_factory):
    """A function from a source to what two steps make of it, losses and parameters; and that of the reference."""
    reference = arrayrecord(rows, tmp_path_factory.mktemp("reference"))
    experiment = Experiment(**Experiment.resolve(training(reference, rows, 2)))
    step, start, where = experiment.compile_step(), experiment.init(), batch_sharding(experiment.mesh)

    def train(source):
        loader, state, losses = open_pipeline(training(source, rows, 2)).loader, jax.tree.map(jnp.copy, start), []
        for k in range(2):
            batch = {k: jax.device_put(v, where) for k, v in loader.host_batch(k).items() if k not in BESIDE}
            state, metrics = step(state, batch)
            losses.append(float(metrics["loss"]))
        return losses, jax.device_get(state.params)

    return train, train(reference)


def test_two_steps_of_training_are_the_same(part, two_steps):
    train, (losses, parameters) = two_steps
    found, trained = train(part)
    assert found == losses and losses[0] != losses[1]
    jax.tree.map(np.testing.assert_array_equal, trained, parameters)


@pytest.mark.slow
def test_runs_are_the_same(part, rows, tmp_path):
    logs = []
    for name, source in (("format", part), ("reference", arrayrecord(rows, tmp_path / "reference_data"))):
        run(training(source, rows, 6), tmp_path / name)
        logs.append([(r["step"], r["loss"], r["batch_hash"]) for r in read_rows(tmp_path / name / "metrics.jsonl")])
    assert logs[0] == logs[1] and len(logs[0]) == 6

"""Broken data, each kind for real: found, listed with its place, replaced the same way everywhere, and too much of it
stops the run."""

import io
import json
import pathlib
import struct
import tarfile
import zlib

import numpy as np
import pytest
from PIL import Image

from bigcl.config import plain
from bigcl.data import bench
from bigcl.data.loader import Loader, bad_records, pad_batches
from bigcl.data.mixture import Mixture
from bigcl.data.quarantine import Allowance, Quarantine, TooManyBadRecords, fault_records
from bigcl.data.sources import BadRecord
from bigcl.data.sources.filtered import Filtered
from bigcl.data.sources.webdataset import WebDataset
from bigcl.experiment import Experiment
from bigcl.log import read_rows
from bigcl.registry import ConfigError, build
from bigcl.train import run
from configs import siglip

TEXTS = {"kind": "arrays", "arrays": {"text": ["a picture of number"] * 4}}
TOKENIZER = {"kind": "bpe", "source": TEXTS, "key": "text", "vocab_size": 100}
TRANSFORMS = [{"kind": "decode_image"}, {"kind": "resize", "size": [32, 32]}, {"kind": "tokenize", "length": 8}]


def jpeg(number):
    out = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(out, "JPEG")
    return out.getvalue()


def bomb():
    """A PNG of a few bytes that claims a gigapixel."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def sample(number):
    return {"jpg": jpeg(number), "txt": f"number {number}".encode()}


BROKEN = {  # sample -> what is in place of its members, and the reason
    3: ({**sample(3), "jpg": jpeg(3)[:-100]}, "no picture can be made of it: OSError: image file is truncated"),
    5: ({**sample(5), "txt": b"\xff\xfe"}, "member txt: 'utf-8' codec can't decode"),
    7: ({"jpg": jpeg(7)}, "no member txt; it has jpg"),
    9: ({**sample(9), "txt": b" \n"}, "'text' is empty"),
    11: ({**sample(11), "jpg": bomb()}, "DecompressionBombError"),
    13: ({f"../{k}": v for k, v in sample(13).items()}, "leads out of the archive"),
    15: ({**sample(15), "jpg": b""}, "no picture can be made of it: UnidentifiedImageError"),
}
DELETED, SIZE = range(50, 54), 54


def write_tar(path, numbers):
    with tarfile.open(path, "w") as file:
        for number in numbers:
            for name, content in BROKEN.get(number, (sample(number),))[0].items():
                folder, _, extension = name.rpartition("/")
                member = tarfile.TarInfo(f"{folder and '../'}{number:04d}.{extension}")
                member.size = len(content)
                file.addfile(member, io.BytesIO(content))


@pytest.fixture
def folder(tmp_path):
    """Shards with all of that, one cut in the middle, one empty, and one that is going to be deleted."""
    shards = tmp_path / "shards"
    shards.mkdir()
    write_tar(shards / "0.tar", range(30))
    write_tar(shards / "1.tar", range(30, 60))
    whole = (shards / "1.tar").read_bytes()
    with tarfile.open(shards / "1.tar") as file:
        (shards / "1.tar").write_bytes(whole[: file.getmember("0050.jpg").offset_data + 100])
    (shards / "2.tar").write_bytes(b"")
    write_tar(shards / "3.tar", DELETED)
    return shards


@pytest.fixture
def source(folder):
    source = WebDataset(str(folder))
    (folder / "3.tar").unlink()
    assert len(source) == SIZE
    return source


def loader(source, **options):
    tokenizer = build("tokenizer", TOKENIZER)
    transforms = [build("transform", part, tokenizer=tokenizer) for part in TRANSFORMS]
    return Loader(source, transforms, **{"batch": 24, "seed": 5, **options})


def take(loader, count, start=0):
    batches = loader.batches(start)
    try:
        return [next(batches) for _ in range(count)]
    finally:
        batches.close()


def assert_same(batches, others):
    for batch, other in zip(batches, others, strict=True):
        assert bad_records(batch) == bad_records(other)
        assert batch.keys() == other.keys()
        for key in batch:
            np.testing.assert_array_equal(batch[key], other[key])


def test_each_kind_is_found_listed_and_replaced(source, folder):
    batches = take(loader(source), 9)  # four epochs
    records = {record["index"]: record for batch in batches for record in bad_records(batch)}
    assert set(records) == {*BROKEN, *DELETED}
    for index, (_, reason) in BROKEN.items():
        shard, start, _ = source.locate(index)
        record = records[index]
        assert reason in record["reason"]
        assert (record["source"], record["shard"], record["offset"]) == (source.name, shard, start)
        assert f"{index:04d}" in record["key"] and start % 512 == 0 and shard == str(folder / "0.tar")
    for index in DELETED:
        assert "gone since it was indexed" in records[index]["reason"] and records[index]["shard"].endswith("3.tar")
    for batch in batches:
        assert batch["image"].shape == (24, 32, 32, 3) and not set(records) & set(batch["index"].tolist())
    meant = np.concatenate([loader(source).indices(step) for step in range(9)])
    there = np.concatenate([batch["index"] for batch in batches])
    assert (meant == there).tolist() == [i not in records for i in meant.tolist()]
    faults = fault_records(source.faults)
    assert [(f["shard"][-5:], f["reason"]) for f in faults][1] == ("2.tar", "0 bytes")
    assert faults[0]["shard"].endswith("1.tar") and "truncated" in faults[0]["reason"]


def test_replacements_are_the_same_on_any_hosts_workers_and_start(source):
    whole = take(loader(source), 5)
    assert_same(take(loader(source), 2, start=3), whole[3:])
    assert_same(take(loader(source, workers=2), 3, start=2), whole[2:])
    for hosts in (2, 3, 8):
        parts = [take(loader(source, process_index=p, process_count=hosts), 3) for p in range(hosts)]
        for step in range(3):
            assert [r for part in parts for r in bad_records(part[step])] == bad_records(whole[step])
            for key in ("image", "text", "index"):
                np.testing.assert_array_equal(np.concatenate([part[step][key] for part in parts]), whole[step][key])


def test_in_a_mixture_the_replacement_is_of_the_same_source(source, folder):
    mixture = Mixture({"good": TEXTS, "tars": {"kind": "webdataset", "shards": str(folder / "0.tar")}})
    transforms = [build("transform", TRANSFORMS[2], tokenizer=build("tokenizer", TOKENIZER))]
    batches = take(Loader(mixture, transforms, batch=17, seed=0), 4)
    records = [record for batch in batches for record in bad_records(batch)]
    assert {r["index"] for r in records} == {4 + i for i in (5, 7, 9, 13)}
    assert {r["source"] for r in records} == {f"webdataset {folder / '0.tar'}"} and all(r["offset"] for r in records)
    assert [int((batch["source"] == 0).sum()) for batch in batches] == [2] * 4
    assert len(mixture.faults) == 0


def test_places_and_faults_pass_through_a_filter(folder):
    source = Filtered({"kind": "webdataset", "shards": str(folder)}, "key != '0001'")
    assert len(source.faults) == 2
    (row,) = np.flatnonzero(source.index == 9)
    records = {r["index"]: r for b in take(loader(source, batch=2 * len(source)), 1) for r in bad_records(b)}
    assert (records[row]["shard"], records[row]["offset"]) == source.source.place(9)


def test_a_tokenizer_is_trained_without_them(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("BIGCL_DATA", str(tmp_path / "cache"))
    part = {"kind": "bpe", "source": {"kind": "webdataset", "shards": str(folder)}, "key": "text"}
    assert build("tokenizer", part).vocab_size > 259


def test_the_bench_measures_without_them(source):
    transforms = loader(source).forms[0].transforms
    stages = [bench.Stage(name) for name in ("read", "decode", "resize", "tokenize", "stack")]
    made = bench.make_batch(source, transforms, loader(source, batch=SIZE), 0, stages)
    assert made == SIZE - len(BROKEN) - len(DELETED)


def test_an_evaluation_does_not_do_without(source):
    with pytest.raises(BadRecord) as caught:
        list(pad_batches(source, [], batch=8))
    assert caught.value.__notes__[0] == f"example 5 of {source.name}"


def test_a_source_of_bad_records_alone_ends(folder):
    source = WebDataset(str(folder / "3.tar"))
    (folder / "3.tar").unlink()
    with pytest.raises(BadRecord, match="gone since") as caught:
        loader(source).host_batch(0)
    assert "the last of 17 in a row that are bad" in caught.value.__notes__[0]


def test_lists_each_once_and_mends_a_half_written_line(tmp_path):
    path = tmp_path / "quarantine.jsonl"
    record = {"source": "s", "key": "ä", "shard": "x.tar", "offset": 512, "reason": "r", "index": 4}
    faults = fault_records([BadRecord("s", None, "y.tar", 0, "0 bytes")])
    assert Quarantine(path).add([record, record, *faults]) == 2
    path.write_bytes(path.read_bytes() + b'{"source": "s", "ke')
    quarantine = Quarantine(path)
    assert quarantine.add([record, *faults]) == 0 and quarantine.add([{**record, "index": 5}]) == 1
    assert [json.loads(line) for line in path.read_text().splitlines()] == [record, *faults, {**record, "index": 5}]


def test_the_allowance_counts_a_thousand_at_least():
    record = {"source": "s", "key": "k", "shard": "x.tar", "offset": 512, "reason": "broken", "index": 4}
    allowance = Allowance(0.01)
    allowance.count(50, [record] * 10)
    with pytest.raises(TooManyBadRecords, match=r"11 of 100 .* = 0.01 .*\n  s, x.tar, byte 512, k: broken"):
        allowance.count(50, [record])
    allowance = Allowance(0.01)
    allowance.count(10_000, [record] * 100)
    with pytest.raises(TooManyBadRecords, match="201 of 20,000"):
        allowance.count(10_000, [record] * 101)
    with pytest.raises(TooManyBadRecords, match="1 of 10"):
        Allowance(0.0).count(10, [record])


def test_a_fraction_is_between_0_and_1(folder):
    with pytest.raises(ConfigError, match=r"data\.max_bad_fraction: expected 0 to 1, got 2"):
        Experiment.resolve(config(folder, max_bad_fraction=2))


def config(folder, **data):
    config = plain(siglip.get_config("smoke"))
    length = config["task"]["towers"]["text"]["length"]
    config["tokenizer"] = TOKENIZER
    config["task"]["towers"]["text"]["vocab"] = 300
    transforms = [*TRANSFORMS[:2], {"kind": "tokenize", "length": length}, {"kind": "keep", "keys": ["image", "text"]}]
    config["data"] = {"source": {"kind": "webdataset", "shards": str(folder)}, "transforms": transforms, **data}
    config["train"].update(steps=8, log_every=2)
    return config


def records_of(workdir):
    return [json.loads(line) for line in (workdir / "quarantine.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_run_goes_on_without_them(folder, tmp_path, capfd):
    part = {"kind": "webdataset", "shards": str(folder)}
    mixture = {"kind": "mixture", "sources": {"tars": part, "more": {**part, "shards": str(folder / "3.tar")}}}
    mixture |= {"weights": {"tars": 7, "more": 1}, "homogeneous": True}
    run(config(folder, source=mixture, workers=1, max_bad_fraction=0.1, repeats=["text", "image"]), tmp_path / "run")
    output = capfd.readouterr()
    assert "2.tar, byte 0: 0 bytes" in output.out and "more bad records, as webdataset" in output.err
    assert ["more", "4", "12.50%", "4.00"] in [line.split() for line in output.out.splitlines()]
    rows, listed = read_rows(tmp_path / "run" / "metrics.jsonl"), records_of(tmp_path / "run")
    assert [record["reason"] for record in listed if record["index"] is None][1] == "0 bytes"
    assert {record["index"] for record in listed} == {None, *BROKEN}
    batches = take(loader(build("source", mixture), batch=16, seed=0, repeats=["text", "image"]), 8)
    bad = [len(bad_records(batch)) for batch in batches]
    assert [row["bad_records"] for row in rows] == [sum(bad[i : i + 2]) for i in (0, 2, 4, 6)] and sum(bad) > 3
    unique = [[len(np.unique(column)) for column in batch["repeats"].T] for batch in batches[1::2]]
    assert [[16 - row["repeats/text"], 16 - row["repeats/image"]] for row in rows] == unique
    assert unique != [[16, 16]] * 4 and batches[0]["repeats"].dtype == np.uint64
    assert all(sum(k.startswith("loss_of/") for k in row) in (1, 2) for row in rows)
    assert {k for row in rows for k in row if k.startswith("loss_of/")} == {"loss_of/tars", "loss_of/more"}
    assert rows[-1]["epochs_of/more"] == 4


@pytest.mark.slow
def test_a_run_with_too_many_stops_and_goes_on_when_they_are_allowed(folder, tmp_path):
    with pytest.raises(TooManyBadRecords, match=r"data.max_bad_fraction = 0.001 .*\n  webdataset .*0.tar, byte \d+"):
        run(config(folder, max_bad_fraction=0.001), tmp_path / "run")
    (saved,) = (tmp_path / "run" / "checkpoints").iterdir()
    first = read_rows(tmp_path / "run" / "metrics.jsonl")[-1]
    assert int(saved.name) == first["step"] < 8 and first["bad_records"] > 1
    run(config(folder, max_bad_fraction=0.5), tmp_path / "run")
    run(config(folder, max_bad_fraction=0.5), tmp_path / "whole")
    rows = [read_rows(tmp_path / name / "metrics.jsonl") for name in ("run", "whole")]
    for key in ("step", "loss", "bad_records", "batch_hash"):
        assert [row[key] for row in rows[0]] == [row[key] for row in rows[1]]
    assert sum(row["bad_records"] for row in rows[1]) >= len(
        {r["index"] for r in records_of(tmp_path / "whole")} - {None}
    )
    assert (
        pathlib.Path(tmp_path / "run" / "quarantine.jsonl").read_text()
        == (tmp_path / "whole" / "quarantine.jsonl").read_text()
    )

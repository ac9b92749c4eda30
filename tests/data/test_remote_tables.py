"""Tables behind a server: the same examples and batches as from a disk, whatever the network does."""

import pickle
import random

import numpy as np
import pytest

from bigcl.data.convert import convert
from bigcl.data.loader import Loader
from bigcl.data.records import url_inside
from bigcl.data.sources import BadRecord, metadata
from bigcl.data.sources.arrayrecord import ArrayRecord
from bigcl.data.storage import StorageError
from bigcl.registry import build
from tests.data import test_formats
from tests.data.servers import http_server

pytest.importorskip("aiohttp")
COUNT = 40
KINDS = ["jsonl", "csv", "parquet", "parquet_of_hugging_face", "tfrecord"]


@pytest.fixture(scope="module")
def rows():
    draw = random.Random(0)
    return [{"code": f"{i:04x}", "image": draw.randbytes(2000), "text": f"größe {i}"} for i in range(COUNT)]


@pytest.fixture
def served(rows, tmp_path, monkeypatch):
    """A function from a format to the source on the disk, that on a server, and the faults of the server."""
    monkeypatch.setenv("BIGCL_DATA", str(tmp_path / "cache"))
    folder = tmp_path / "data"
    folder.mkdir()
    with http_server(folder) as (url, faults):

        def make(kind, **options):
            part = getattr(test_formats, kind)(rows, folder) | options
            return build("source", part), {**part, "paths": part["paths"].replace(str(folder), f"{url}/", 1)}, faults

        yield make


def examples(source):
    return [source[i] for i in range(len(source))]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_through_a_failing_server(served, kind):
    local, part, faults = served(kind)
    part["paths"] = part["paths"].replace("//*", "/*")
    source = build("source", part)
    assert len(source) == COUNT and source.name != local.name
    faults.plan.extend(["", "500", "", "", "reset", "", "short"])
    assert examples(source) == examples(local) and not faults.plan
    assert examples(pickle.loads(pickle.dumps(source)))[7] == local[7]
    for step in (0, 3):
        batches = [
            Loader(s, [lambda e, _: {"image": np.frombuffer(e["image"], np.uint8)}], batch=16, seed=1).host_batch(step)
            for s in (source, local)
        ]
        assert all(np.array_equal(batches[0][k], batches[1][k]) for k in batches[1])
    if hasattr(local, "metadata"):
        assert metadata(source, ["text"], 3, 30) == metadata(local, ["text"], 3, 30)


def test_worker_processes(served):
    local, part, _ = served("parquet")
    transform = [Pixels()]
    batches = Loader(build("source", part), transform, batch=8, seed=1, workers=2).batches()
    expected = Loader(local, transform, batch=8, seed=1)
    try:
        for step in range(4):
            np.testing.assert_array_equal(next(batches)["image"], expected.host_batch(step)["image"])
    finally:
        batches.close()


class Pixels:
    """Bytes as an array."""

    def __call__(self, example, rng):
        return {"image": np.frombuffer(example["image"], np.uint8)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_refuses_is_no_bad_record(served, kind):
    _, part, faults = served(kind)
    source = build("source", {**part, "paths": part["paths"].replace("//*", "/*")})
    faults.plan.extend(["403"] * 4)
    with pytest.raises(StorageError, match="403"):
        source[3]
    faults.plan.clear()
    assert source[3]["text"] == "größe 3" or source[3]["text"] == "größe 3".encode()


def test_pictures_of_a_data_set_on_a_disk_behind_a_server_that_refuses(served, rows, tmp_path):
    _, part, faults = served("csv")
    (tmp_path / "set").mkdir()
    named = [{"path": f"{i}.png", "text": row["text"]} for i, row in enumerate(rows)]
    local = test_formats.huggingface([{**row, "image": None} for row in named], tmp_path / "set")
    options = {"columns": ["text"], "files": {"image": "path"}, "root": part["paths"].rstrip("/") + "/pictures"}
    source = build("source", {**local, **options})
    faults.plan.extend(["403"])
    with pytest.raises(StorageError, match="403"):
        source[3]
    assert source[3]["image"] == rows[3]["image"] and source.place(3)[0].startswith(str(tmp_path / "set"))


def test_a_conversion_leaves_nothing_out_when_the_network_fails(served, tmp_path):
    local, part, faults = served("csv")
    source = build("source", part)
    faults.plan.extend([""] * 6 + ["403"])
    with pytest.raises(StorageError, match="403"):
        convert(source, tmp_path / "out", per_shard=COUNT, max_bad_fraction=0.5)
    assert convert(source, tmp_path / "out", per_shard=COUNT) == (COUNT, 0, 0)
    assert examples(ArrayRecord(str(tmp_path / "out"))) == examples(local)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_gone_or_cut_is_a_bad_record(served, kind, tmp_path):
    _, part, _ = served(kind)
    source = build(
        "source", {**part, "paths": part["paths"].replace("//*", "/*"), **({"cache": 0} if "parquet" in kind else {})}
    )
    files = [f for f in (tmp_path / "data").iterdir() if f.is_file()]
    for file in files:
        file.write_bytes(file.read_bytes()[:10])
    with pytest.raises(BadRecord, match=r"ends before|has changed") as caught:
        source[20]
    assert caught.value.shard.startswith("http://")
    for file in files:
        file.unlink()
    with pytest.raises(BadRecord):
        source[21]


def test_a_picture_that_is_gone_is_a_bad_record(served, tmp_path):
    _, part, _ = served("csv")
    source = build("source", part)
    (tmp_path / "data" / "pictures" / "5.png").unlink()
    with pytest.raises(BadRecord) as caught:
        source[5]
    assert caught.value.key == "5" and source[6]["text"] == "größe 6"


def test_only_the_group_is_asked_for(served):
    _, part, faults = served("parquet")
    source = build("source", part)
    faults.requests.clear()
    source[0]
    asked = [r.rpartition("bytes=")[2].split("-") for r in faults.requests if "bytes=" in r]
    size = sum(f.size for f in source.files)
    assert 14_000 < sum(int(b) - int(a) + 1 for a, b in asked) < size / 4


@pytest.mark.parametrize(
    "name, inside",
    [
        ("a/b.jpg", "a/b.jpg"),
        ("https://h/x/a.jpg", "a.jpg"),
        ("ä b%20.jpg", "ä b%20.jpg"),
        ("../a.jpg", None),
        ("a/../../b", None),
        ("%2e%2e/a", None),
        ("a%2f..%2fb", None),
        ("/a.jpg", None),
        ("a//b", None),
        ("a\\..\\b", None),
        ("https://other/a.jpg", None),
        ("https://h/xy/a.jpg", None),
        ("s3://bucket/a.jpg", None),
        ("file:///etc/hostname", None),
        ("a.jpg?to=b", None),
        ("a.jpg#b", None),
        (".", None),
    ],
)
def test_names_stay_under_the_root(name, inside):
    if inside is None:
        with pytest.raises(ValueError, match="lies outside of https://h/x"):
            url_inside("https://h/x/", name)
    else:
        assert url_inside("https://h/x", name) == f"https://h/x/{inside}"


def test_nothing_there(served):
    _, part, _ = served("jsonl")
    for paths, message in (
        (part["paths"] + "none/*.jsonl", "no .* files here"),
        (part["paths"] + "none.jsonl", "none"),
    ):
        with pytest.raises(FileNotFoundError, match=message):
            build("source", {**part, "paths": paths})

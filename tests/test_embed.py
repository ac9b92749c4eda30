"""Embedding jobs: every example once, under its own key, however often interrupted and however many processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from bigcl import registry
from bigcl.data.sources.arrayrecord import write_arrayrecord
from bigcl.embed import embed
from bigcl.embeddings import Shards
from bigcl.interop.model import Model, Preprocessing, blank, load, save
from bigcl.pretrained import Pretrained
from bigcl.registry import ConfigError
from tests.test_two_processes import ROOT, free_port

TOWER = {"width": 16, "depth": 1, "heads": 2, "embed_dim": 8}
TASK = {
    "kind": "two_tower",
    "towers": {
        "image": {"kind": "vit", "image_size": 8, "patch": 4, "pool": "mean", **TOWER},
        "text": {"kind": "text", "vocab": 32, "length": 6, **TOWER},
    },
    "losses": [{"kind": "infonce", "of": ["image", "text"]}],
}
SIZE = 50


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`model`, what `bigcl.convert` would write, and `data`, with one record that is no picture."""
    root = tmp_path_factory.mktemp("embed")
    task, shapes = blank(TASK)
    rng = np.random.default_rng(0)
    arrays = {k: rng.normal(scale=0.3, size=s).astype(np.float32) for k, s in shapes.items()}
    save(Model(task, arrays, None, Preprocessing.of([], task["towers"]["image"])), root / "model")
    examples = [
        {
            "key": f"n{i}",
            "image": rng.integers(0, 256, (8, 8, 3), dtype=np.uint8),
            "text": rng.integers(0, 32, 6).astype(np.int32),
        }
        for i in range(SIZE)
    ]
    write_arrayrecord(examples, root / "data")
    write_arrayrecord(
        [*examples[:20], {"key": "broken", "image": b"no picture", "text": examples[0]["text"]}], root / "bad"
    )
    return root


def data(folder, name="data"):
    return {"kind": "arrayrecord", "paths": str(folder / name)}


def read(out):
    """All rows of a folder."""
    rows = list(Shards.open(out))
    inputs = rows[0].embeddings
    return (
        np.concatenate([r.indices for r in rows]),
        [key for r in rows for key in r.keys],
        {name: np.concatenate([r.embeddings[name] for r in rows]) for name in inputs},
    )


@pytest.mark.parametrize("format", ["npy", "parquet"])
@pytest.mark.parametrize("batch, rows", [(16, 64), (8, 20)])
def test_embeddings_are_the_towers(folder, tmp_path, format, batch, rows):
    summary = embed(folder / "model", data(folder), tmp_path / "out", format=format, batch=batch, rows=rows)
    assert summary == (SIZE, 0, 0)
    index, keys, found = read(tmp_path / "out")
    assert index.tolist() == list(range(SIZE)) and keys == [f"n{i}" for i in range(SIZE)]
    source = registry.build("source", data(folder))
    batch = {k: np.stack([source[i][k] for i in range(SIZE)]) for k in ("image", "text")}
    expected = Pretrained.open(folder / "model").encode(batch)
    assert set(found) == {"image", "text"}
    for name, x in expected.items():
        np.testing.assert_allclose(found[name], x, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, atol=1e-5)


def test_what_is_there_is_kept(folder, tmp_path):
    out = tmp_path / "out"
    embed(folder / "model", data(folder), out, batch=8, rows=20)
    before = read(out)
    (out / "00001.index.npy").unlink()
    stamps = {p: p.stat().st_mtime_ns for p in out.glob("0000[02]*")}
    assert embed(folder / "model", data(folder), out, batch=16, rows=20) == (20, 2, 0)
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    after = read(out)
    assert after[1] == before[1]
    for name, x in before[2].items():
        np.testing.assert_allclose(after[2][name], x, atol=1e-6)


def test_other_embeddings_are_not_mixed(folder, tmp_path):
    embed(folder / "model", data(folder), tmp_path, rows=20)
    with pytest.raises(ConfigError, match="holds embeddings of another rows: 20, not 30"):
        embed(folder / "model", data(folder), tmp_path, rows=30)


def test_embeddings_of_other_weights_at_the_same_place_are_not_mixed(folder, tmp_path):
    """Nor those that were made otherwise: the manifest says by what."""
    place, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(folder / "model", place)
    embed(place, data(folder), out, rows=20)
    manifest = json.loads((out / "embeddings.json").read_text())
    assert manifest["model"]["dtype"] == "float32" and manifest["transforms"][0] == {"kind": "decode_image"}
    shutil.rmtree(place)
    model = load(folder / "model")
    model.arrays["towers/text/norm/bias"] = model.arrays["towers/text/norm/bias"] + np.float32(1e-3)
    save(model, place)
    with pytest.raises(ConfigError, match="holds embeddings of another model"):
        embed(place, data(folder), out, rows=20)
    again = json.loads((out / "embeddings.json").read_text())
    assert again == manifest and len(manifest["model"]["weights"]) == 16


@pytest.mark.parametrize("harm", ["old", "cut", "list"])
def test_a_manifest_of_another_make_is_a_plain_error(harm, folder, tmp_path):
    embed(folder / "model", data(folder), tmp_path, rows=20)
    path = tmp_path / "embeddings.json"
    manifest = json.loads(path.read_text())
    del manifest["transforms"], manifest["model"]["weights"], manifest["model"]["dtype"]
    path.write_text({"old": json.dumps(manifest), "cut": path.read_text()[:40], "list": "[]"}[harm])
    with pytest.raises(ConfigError, match="embeddings"):
        embed(folder / "model", data(folder), tmp_path, rows=20)


def test_bad_records_are_left_out_and_listed(folder, tmp_path):
    summary = embed(folder / "model", data(folder, "bad"), tmp_path / "a", max_bad_fraction=0.1)
    assert summary == (20, 0, 1)
    index, keys, _ = read(tmp_path / "a")
    assert index.tolist() == list(range(20)) and "broken" not in keys
    record = json.loads((tmp_path / "a" / "00000.bad.jsonl").read_text())
    assert record["index"] == 20 and record["reason"]
    with pytest.raises(ConfigError, match="1 of 21 examples are bad records"):
        embed(folder / "model", data(folder, "bad"), tmp_path / "b")
    assert Shards.open(tmp_path / "b").missing() == [0]


def test_data_without_an_input(folder, tmp_path):
    write_arrayrecord([{"sound": b"x"}], tmp_path / "data")
    with pytest.raises(ConfigError, match="an example has sound; the model reads image, text"):
        embed(folder / "model", data(tmp_path), tmp_path / "out")


def test_keys_are_texts_also_where_a_format_keeps_bytes(folder, tmp_path):
    examples = [{"key": f"ë{i}".encode(), "label": i, "text": np.full(6, i, np.int32)} for i in range(3)]
    examples += [{"key": None, "label": 3, "text": np.full(6, 3, np.int32)}]
    write_arrayrecord(examples, tmp_path / "data")
    for key, expected in {"key": ["ë0", "ë1", "ë2", "3"], "label": ["0", "1", "2", "3"]}.items():
        embed(folder / "model", data(tmp_path), tmp_path / key, key=key)
        assert read(tmp_path / key)[1] == expected


@pytest.mark.parametrize(
    "options, message",
    [
        ({"key": "kye"}, "--key kye: an example has no such field; did you mean 'key'?"),
        ({"rows": 0}, "--rows 0: a shard has one example or more"),
        ({"batch": 0}, "--batch 0: does not divide among 1 processes"),
    ],
)
def test_options_that_cannot_be(options, message, folder, tmp_path):
    with pytest.raises(ConfigError) as error:
        embed(folder / "model", data(folder), tmp_path / "out", **options)
    assert str(error.value) == message and not (tmp_path / "out").exists()


def command(folder, out, *more):
    options = ["--checkpoint", folder / "model", "--data", json.dumps(data(folder)), "--out", out, "--batch", "2"]
    return [sys.executable, "-m", "bigcl.embed", *map(str, options), *more]


def environment(**more):
    return os.environ | {"JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir} | more


def test_a_job_that_was_killed_goes_on(folder, tmp_path):
    """Killed as soon as a shard is whole, started again; the shards of both together are those of one job."""
    out = tmp_path / "out"
    arguments = command(folder, out, "--rows", "2")
    process = subprocess.Popen(arguments, cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL)
    while not list(out.glob("*.index.npy")) and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = {p: p.stat().st_mtime_ns for p in out.glob("*.index.npy")}
    assert len(there) > 0
    done = subprocess.run(arguments, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True)
    assert f"{len(there)} shards were there already" in done.stdout
    assert {p: p.stat().st_mtime_ns for p in there} == there
    embed(folder / "model", data(folder), tmp_path / "whole", rows=2, batch=2)
    same(out, tmp_path / "whole")


def test_two_processes_share_the_shards(folder, tmp_path):
    """Seven shards over two processes of two devices: the same folder as one process makes."""
    processes = start_two([*command(folder, tmp_path / "two"), "--rows", "8"])
    said = [p.communicate(timeout=300)[0] for p in processes]
    assert [p.returncode for p in processes] == [0, 0]
    embedded = [int(text.splitlines()[-1].split(": ")[1].split()[0]) for text in said]
    assert sum(embedded) == SIZE and min(embedded) > 0
    embed(folder / "model", data(folder), tmp_path / "one", rows=8)
    same(tmp_path / "two", tmp_path / "one")


@pytest.mark.parametrize("fault", ["begin", "bad"])
def test_what_ends_one_process_ends_all(fault, folder, tmp_path):
    """A folder of other embeddings, which the first alone looks at; too many bad records in the shard of the second."""
    out, more = tmp_path / "out", ["--rows", "11"]
    if fault == "begin":
        out.mkdir()
        (out / "embeddings.json").write_text("{}")
    arguments = command(folder, out, *more)
    arguments[arguments.index("--data") + 1] = json.dumps(data(folder, "data" if fault == "begin" else "bad"))
    processes = start_two(arguments)
    said = [p.communicate(timeout=300)[1] for p in processes]
    assert [p.returncode for p in processes] == [1, 1], said
    reason = "holds embeddings of another" if fault == "begin" else "examples are bad records"
    assert all(f"error: {other}" in text and reason in text for other, text in zip(OTHERS[fault], said, strict=True))


OTHERS = {"begin": ("--out", "process 0 has ended"), "bad": ("process 1 has ended", "1 of 10")}


def start_two(arguments):
    """Two processes of two devices each."""
    address = {
        "JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}",
        "JAX_NUM_PROCESSES": "2",
        "JAX_NUM_CPU_DEVICES": "2",
    }
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [
        subprocess.Popen(arguments, cwd=ROOT, env=environment(**address, JAX_PROCESS_ID=str(i)), **pipes)
        for i in range(2)
    ]


def same(a, b):
    left, right = read(a), read(b)
    assert left[0].tolist() == right[0].tolist() and left[1] == right[1]
    for name, x in right[2].items():
        np.testing.assert_allclose(left[2][name], x, atol=1e-6)

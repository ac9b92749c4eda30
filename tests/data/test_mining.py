"""Pairs that two models disagree about, against all pairs one by one."""

import json

import numpy as np
import pytest

from bigcl.data.__main__ import main
from bigcl.data.mining import blind_pairs
from bigcl.embeddings import Rows, Shards


def cosine(x, i, j):
    return x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j])


@pytest.mark.parametrize("chunk", [1, 7, 10, 64])
@pytest.mark.parametrize(("above", "below"), [(0.5, 0.3), (0.99, -0.9), (-1.5, 1.5)])
def test_all_pairs_in_order(chunk, above, below):
    rng = np.random.default_rng(0)
    a, b = (5 * rng.normal(size=(30, d)).astype(np.float32) for d in (3, 4))
    found = blind_pairs(a, b, above=above, below=below, chunk=chunk)
    pairs = [(i, j) for i in range(30) for j in range(i + 1, 30)]
    expected = [(i, j) for i, j in pairs if cosine(a, i, j) > above and cosine(b, i, j) < below]
    assert (
        found.dtype == np.int64 and found.shape == (len(expected), 2) and found.tolist() == [list(p) for p in expected]
    )
    if above < 1 and below > 0:
        assert expected


def test_different_numbers_of_examples_are_an_error():
    with pytest.raises(ValueError, match="got 4 and 5"):
        blind_pairs(np.ones((4, 2), np.float32), np.ones((5, 2), np.float32))


SIZE = 40


def write(folder, x, bad=(), **manifest):
    """A folder of embeddings, in shards of 15 of which some examples are missing."""
    shards = Shards(
        folder,
        {"identity": "pictures", "inputs": ["image"], "examples": SIZE, "rows": 15, "format": "npy", **manifest},
    )
    shards.begin()
    for number in range(len(shards)):
        index = np.array([i for i in shards.examples(number) if i not in bad], np.int64)
        shards.write(number, Rows(index, [f"n{i}" for i in index], {"image": x[index]}))
    return str(folder)


@pytest.fixture
def tables():
    rng = np.random.default_rng(1)
    a, b = (rng.normal(size=(SIZE, d)).astype(np.float32) for d in (3, 4))
    return [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b)]


def test_the_command_mines_two_folders(tables, tmp_path, capsys):
    """Row i of the folders need not be the same example: either lacks some."""
    bad = {"clip": [3, 17], "ssl": [0, 17, 30]}
    folders = {k: write(tmp_path / k, x, bad[k]) for (k, x) in zip(("clip", "ssl"), tables, strict=True)}
    out = tmp_path / "pairs.jsonl"
    flags = [part for name, folder in folders.items() for part in (f"--{name}", folder)]
    main(["blind-pairs", *flags, "--above", "0.5", "--below", "0.3", "--out", str(out)])
    found = [json.loads(line) for line in out.read_text().splitlines()]
    there = [i for i in range(SIZE) if i not in {0, 3, 17, 30}]
    a, b = tables
    pairs = [(i, j) for i in there for j in there if i < j and a[i] @ a[j] > 0.5 and b[i] @ b[j] < 0.3]
    assert pairs and f"{len(pairs)} pairs" in capsys.readouterr().out
    assert [tuple(f["indices"]) for f in found] == pairs
    assert [f["keys"] for f in found] == [[f"n{i}", f"n{j}"] for i, j in pairs]
    for name, x in zip(("clip", "ssl"), tables, strict=True):
        np.testing.assert_allclose([f[name] for f in found], [x[i] @ x[j] for i, j in pairs], atol=2e-6)


@pytest.mark.parametrize(
    ("manifest", "flags", "message"),
    [
        ({"identity": "drawings"}, [], "is of other data than .*: identity 'drawings', not 'pictures'"),
        ({}, ["--input", "imgae"], "has no 'imgae'; did you mean 'image'"),
    ],
)
def test_folders_that_do_not_belong_together(tables, tmp_path, manifest, flags, message):
    folders = write(tmp_path / "clip", tables[0]), write(tmp_path / "ssl", tables[1], **manifest)
    with pytest.raises(SystemExit, match=message):
        main(["blind-pairs", "--clip", folders[0], "--ssl", folders[1], "--out", str(tmp_path / "out"), *flags])
    assert not (tmp_path / "out").exists()

"""Pairs that two models disagree about, and the nearest rows, against all pairs one by one."""

import json

import numpy as np
import pytest

from bigcl.data.__main__ import main
from bigcl.data.mining import blind_pairs
from bigcl.data.neighbours import nearest_rows
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


@pytest.mark.parametrize("chunk", [2, 7, 30, 64])
def test_the_nearest_rows(chunk):
    """Copies of a row are no neighbours of it, whichever chunk they are in."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(30, 4)).astype(np.float32)
    x[11], x[25] = 3 * x[4], x[4]
    found, near = nearest_rows(x, 3, chunk)
    for i in range(30):
        others = [j for j in range(30) if cosine(x, i, j) < 1 - 1e-5]
        expected = sorted((cosine(x, i, j) for j in others), reverse=True)[:3]
        np.testing.assert_allclose(near[i], expected, atol=1e-5)
        np.testing.assert_allclose([cosine(x, i, j) for j in found[i]], expected, atol=1e-5)
        assert len(set(found[i])) == 3
    assert nearest_rows(x[[4, 11, 25, 0]], 2)[0][:3].tolist() == [[3, -1]] * 3


def test_different_numbers_of_examples_are_an_error():
    with pytest.raises(ValueError, match="got 4 and 5"):
        blind_pairs(np.ones((4, 2), np.float32), np.ones((5, 2), np.float32))


SIZE = 40


def write(folder, x, bad=(), name="image", keys=None, **manifest):
    """A folder of embeddings, in shards of 15 of which some examples are missing."""
    shards = Shards(
        folder,
        {"identity": "pictures", "inputs": [name], "examples": len(x), "rows": 15, "format": "npy", **manifest},
    )
    shards.begin()
    for number in range(len(shards)):
        index = np.array([i for i in shards.examples(number) if i not in bad], np.int64)
        shards.write(number, Rows(index, [f"n{i}" if keys is None else keys[i] for i in index], {name: x[index]}))
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


def test_the_command_writes_neighbours(tables, tmp_path, capsys):
    folder, out = write(tmp_path / "clip", tables[0], bad=[3, 17]), tmp_path / "neighbours.jsonl"
    main(["neighbours", "--embeddings", folder, "--out", str(out), "--k", "2"])
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert "38 examples" in capsys.readouterr().out
    there = [i for i in range(SIZE) if i not in (3, 17)]
    assert [line["index"] for line in found] == there
    for line in found:
        i = line["index"]
        expected = sorted((j for j in there if j != i), key=lambda j: -(tables[0][i] @ tables[0][j]))[:2]
        assert line["neighbours"] == expected and line["keys"] == [f"n{j}" for j in expected]
    with pytest.raises(SystemExit, match="'n0' has fewer than 40 neighbours"):
        main(["neighbours", "--embeddings", folder, "--out", str(out), "--k", "40"])


def test_the_command_labels_sentences_by_the_pictures_of_their_page(tables, tmp_path, capsys):
    """One by one; a page without pictures has no visual sentence."""
    rng = np.random.default_rng(3)
    text, image = tables[0], tables[0][rng.permutation(SIZE)[:20]]
    pages, shown = ([f"page {p}" for p in rng.integers(0, n, k)] for n, k in ((6, SIZE), (5, 20)))
    folders = [
        write(tmp_path / "text", text, [7], "text", pages),
        write(tmp_path / "image", image, [2], "image", shown),
    ]
    out = tmp_path / "labels.jsonl"
    flags = ["--sentences", folders[0], "--pictures", folders[1], "--out", str(out), "--above", "0.9", "--below", "0.5"]
    main(["distant-labels", *flags])
    wanted = []
    for i in range(SIZE):
        found = {j: text[i] @ image[j] for j in range(20) if j != 2 and shown[j] == pages[i]}
        best = max(found, key=found.get, default=None)
        if i != 7 and (best is None or found[best] < 0.5 or found[best] > 0.9):
            visual = best is not None and bool(found[best] > 0.9)
            wanted.append({"index": i, "key": pages[i], "visual": visual, "picture": best if visual else None})
    assert [json.loads(line) for line in out.read_text().splitlines()] == wanted
    counts = [sum(w["visual"] == v for w in wanted) for v in (True, False)]
    assert min(counts) > 2 and "page 5" in [w["key"] for w in wanted] and len(wanted) < SIZE - 1
    assert f"{counts[0]} visual sentences and {counts[1]} others" in capsys.readouterr().out

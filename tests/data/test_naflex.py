"""Native-aspect patches: as many as fit, in the picture's own shape."""

import io
import sys
import types
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bigcl.data.loader import Loader
from bigcl.data.transforms.image import resize
from bigcl.data.transforms.naflex import Naflex, grid_shape, patchify
from bigcl.experiment import Experiment
from bigcl.log import read_rows
from bigcl.registry import REGISTRIES
from bigcl.train import run

RNG = np.random.default_rng(0)


@given(st.integers(64, 3000), st.integers(64, 3000), st.sampled_from([8, 14, 16, 32]), st.integers(1, 1024))
@settings(max_examples=200, deadline=None)
def test_the_grid_is_the_largest_that_fits(height, width, patch, tokens):
    rows, columns = grid_shape(height, width, patch, tokens)
    assert 1 <= rows * columns <= tokens
    if min(rows, columns) > 1:  # else a side cannot be shorter, whatever the shape
        assert abs(np.log(rows / columns) - np.log(height / width)) <= max(1 / (rows - 1), 1 / (columns - 1))
        assert (rows + 1) * (columns + 1) > tokens


def test_patches_can_be_put_together():
    image = RNG.integers(0, 256, (4 * 8, 6 * 8, 3), np.uint8)
    patches = patchify(image, 8)
    assert patches.shape == (24, 192)
    for n, patch in enumerate(patches):
        row, column = divmod(n, 6)
        assert np.array_equal(patch.reshape(8, 8, 3), image[8 * row : 8 * row + 8, 8 * column : 8 * column + 8])


def test_what_the_example_gets():
    image = RNG.integers(0, 256, (60, 200, 3), np.uint8)
    result = Naflex(patch=8, tokens=40)({"image": image, "text": "a"}, RNG)
    rows, columns = result["image_shape"].tolist()
    count = rows * columns
    assert (rows, columns) == grid_shape(60, 200, 8, 40) and count < 40
    assert result["image"].shape == (40, 192) and result["image"].dtype == np.uint8
    assert result["image_mask"].tolist() == [True] * count + [False] * (40 - count)
    assert result["image_grid"][:count].tolist() == [[r, c] for r in range(rows) for c in range(columns)]
    assert not result["image_grid"][count:].any() and not result["image"][count:].any()
    assert np.array_equal(result["image"][:count], patchify(resize(image, (8 * rows, 8 * columns), "bilinear"), 8))
    assert result["text"] == "a"


def test_encoded_bytes_as_well():
    file = io.BytesIO()
    Image.new("RGB", (640, 320), (200, 100, 50)).save(file, "JPEG")
    result = Naflex(16, 64)({"image": file.getvalue()}, RNG)
    shown = result["image"][result["image_mask"]].reshape(-1, 3).astype(int)
    assert abs(shown - [200, 100, 50]).max() < 4


SHAPES = [(40, 90), (90, 40), (64, 64), (8, 300), (123, 77), (30, 31), (500, 20)]


PICTURES = [{"image": RNG.integers(0, 256, (*shape, 3), np.uint8), "n": n} for n, shape in enumerate(SHAPES)]


def loader(**options):
    return Loader(PICTURES, [Naflex(8, [16, 40, 25])], **{"batch": 24, "seed": 3, **options})


def take(loader, count, start=0):
    batches = loader.batches(start)
    try:
        return [next(batches) for _ in range(count)]
    finally:
        batches.close()


def test_a_batch_has_one_length():
    whole = take(loader(), 14)
    lengths = [batch["image"].shape[1] for batch in whole]
    assert set(lengths) == {16, 25, 40} and lengths != sorted(lengths)
    assert sorted(np.concatenate([batch["n"] for batch in whole]).tolist()) == sorted([*range(7)] * 48)
    for batch, length in zip(whole, lengths, strict=True):
        assert batch["image_mask"].shape == (24, length) and batch["image_grid"].shape == (24, length, 2)
        expected = [grid_shape(*SHAPES[n], 8, length) for n in batch["n"]]
        assert batch["image_shape"].tolist() == [list(grid) for grid in expected]
    counts = np.bincount([loader().form(step) for step in range(3000)])
    assert (abs(counts - 1000) < 120).all()
    assert [loader(seed=4).form(s) for s in range(30)] != [loader().form(s) for s in range(30)]


def test_lengths_are_the_same_for_any_hosts_workers_and_start():
    whole = take(loader(), 5)
    others = [take(loader(), 3, start=2), take(loader(workers=2), 3, start=2)]
    for hosts in (2, 3, 8):
        parts = [take(loader(process_index=p, process_count=hosts), 3, 2) for p in range(hosts)]
        others.append([{k: np.concatenate([part[i][k] for part in parts]) for k in parts[0][0]} for i in range(3)])
    for other in others:
        for batch, expected in zip(other, whole[2:], strict=True):
            assert batch.keys() == expected.keys()
            assert all(np.array_equal(batch[k], expected[k]) for k in batch)


def test_outside_of_training_it_is_the_largest():
    transform = Naflex(8, [16, 40, 25])
    assert transform({"image": RNG.integers(0, 256, (60, 60, 3), np.uint8)}, RNG)["image"].shape == (40, 192)
    assert [loader().spec(form)["image"].shape for form in range(3)] == [(24, 16, 192), (24, 40, 192), (24, 25, 192)]
    for tokens in (0, [], [5, 0]):
        with pytest.raises(ValueError, match=r"naflex\.tokens: expected 1 or more"):
            Naflex(8, tokens)


class Cut:
    """Texts of several lengths, a form for each."""

    def __init__(self, lengths: Sequence[int]):
        self.forms = [lambda e, _, n=n: {**e, "text": e["text"][:n]} for n in lengths]


def test_a_run_compiles_a_step_for_each_form(tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(REGISTRIES["transform"], "cut", f"{__name__}:Cut")
    monkeypatch.setitem(sys.modules, __name__, types.SimpleNamespace(Cut=Cut))  # pytest imports it under no name
    config = {
        "train": {"steps": 6, "batch": 16, "log_every": 1, "profile": 0},
        "data": {
            "source": {
                "kind": "synthetic",
                "size": 32,
                "spec": {"a": {"shape": [6]}, "text": {"shape": [8], "dtype": "int32", "high": 20}},
            },
            "transforms": [{"kind": "cut", "lengths": [8, 3]}],
        },
        "task": {
            "kind": "two_tower",
            "towers": {
                "a": {"kind": "mlp", "inputs": 6, "widths": [16]},
                "text": {"kind": "text", "vocab": 20, "length": 8, "width": 16, "depth": 1, "heads": 2, "pool": "mean"},
            },
            "losses": [{"kind": "infonce", "of": ["a", "text"]}],
        },
        "optim": {"optimizer": {"kind": "sgd"}, "lr": 0.1},
    }
    run(config, tmp_path)
    rows = read_rows(tmp_path / "metrics.jsonl")
    experiment = Experiment(**Experiment.resolve(config))
    assert {experiment.loader.form(step) for step in range(6)} == {0, 1} and experiment.forms() == 2
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6] and all(np.isfinite(row["loss"]) for row in rows)
    assert "compiled between" not in capfd.readouterr().err

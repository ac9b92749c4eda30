"""Native-aspect patches: as many as fit, in the picture's own shape."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bigcl.data.transforms.image import resize
from bigcl.data.transforms.naflex import Naflex, grid_shape, patchify, to_bucket

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


def test_buckets():
    examples = [
        Naflex(8, 64)({"image": RNG.integers(0, 256, (*shape, 3), np.uint8)}, RNG)
        for shape in ((8, 300), (8, 200))  # one row of 64 patches, and of 64
    ]
    examples = [{**e, "index": np.int64(i)} for i, e in enumerate(examples)]
    batch = {k: np.stack([e[k] for e in examples]) for k in examples[0]}
    batch["image_mask"][:, 20:] = False
    cut = to_bucket(batch, (16, 24, 64))
    assert cut["image"].shape == (2, 24, 192) and cut["image_grid"].shape == (2, 24, 2)
    assert cut["image_mask"].sum() == batch["image_mask"].sum()
    assert cut["image_shape"] is batch["image_shape"] and cut["index"] is batch["index"]
    with pytest.raises(ValueError, match=r"none of \[8, 16\] holds 20 patches"):
        to_bucket(batch, [8, 16])

"""Batch functions for the accelerator, against NumPy, under jit and over eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigcl.data.transforms.device import cutmix, mixup, normalize, random_flip
from bigcl.mesh import batch_sharding, make_mesh

MEAN, STD = (0.48, 0.45, 0.4), (0.26, 0.25, 0.27)
PIXELS = np.random.default_rng(0).integers(0, 256, (64, 6, 10, 3), np.uint8)
IMAGES = PIXELS.astype(np.float32) / 255


def test_normalize():
    result = normalize(jnp.asarray(PIXELS), MEAN, STD)
    np.testing.assert_allclose(result, (PIXELS / 255.0 - MEAN) / STD, atol=1e-5)
    assert normalize(jnp.asarray(PIXELS), MEAN, STD, jnp.bfloat16).dtype == jnp.bfloat16


def test_flip_mirrors_half_of_the_rows():
    result = np.asarray(random_flip(jnp.asarray(PIXELS), jax.random.key(1)))
    flipped = [np.array_equal(r, p[:, ::-1]) for r, p in zip(result, PIXELS, strict=True)]
    kept = [np.array_equal(r, p) for r, p in zip(result, PIXELS, strict=True)]
    assert all(f != k for f, k in zip(flipped, kept, strict=True)) and 16 < sum(flipped) < 48


def test_mixup_is_the_weighted_mean_with_the_row_before():
    mixed, share = mixup(jnp.asarray(IMAGES), jax.random.key(0), alpha=0.5)
    weight = np.asarray(share)[:, None, None, None]
    np.testing.assert_allclose(mixed, weight * IMAGES + (1 - weight) * np.roll(IMAGES, 1, axis=0), atol=1e-6)
    assert len(np.unique(share)) == 64 and share.min() < 0.1 and share.max() > 0.9


def test_cutmix_pastes_one_rectangle_and_counts_it():
    mixed, share = map(np.asarray, cutmix(jnp.asarray(IMAGES), jax.random.key(0)))
    before = np.roll(IMAGES, 1, axis=0)
    for row in range(64):
        pasted = (mixed[row] != IMAGES[row]).any(-1)
        assert (mixed[row][pasted] == before[row][pasted]).all()
        assert share[row] == pytest.approx(1 - pasted.mean(), abs=0.05)  # pixels may be equal by chance
        if pasted.any():
            rows, columns = np.nonzero(pasted.any(1))[0], np.nonzero(pasted.any(0))[0]
            assert pasted[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].mean() > 0.9
    assert 0.3 < share.mean() < 0.8


def test_cutmix_removes_the_share_that_was_drawn_where_nothing_sticks_out():
    """On large pictures, the mean of what stays is that of Beta(8, 8) and what was cut off at the edges."""
    ones = jnp.zeros((256, 64, 64, 1)).at[::2].set(1.0)
    mixed, share = cutmix(ones, jax.random.key(3), alpha=8.0)
    stayed = (mixed == ones).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(stayed, share, atol=1e-6)
    assert 0.5 < share.mean() < 0.75


@pytest.mark.parametrize("function", [random_flip, mixup, cutmix])
def test_devices_and_jit_change_nothing(function):
    spread = jax.device_put(IMAGES, batch_sharding(make_mesh()))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        jax.jit(function)(spread, jax.random.key(5)),
        function(jnp.asarray(IMAGES), jax.random.key(5)),
    )

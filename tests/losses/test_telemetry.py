"""Telemetry against a matrix of all pairs, on one device and over eight."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial.distance
import scipy.special

from bigcl.losses import telemetry, uniformity
from bigcl.losses.streaming import stream
from bigcl.losses.telemetry import pair_statistics
from tests.evals.reference import mesh, unit


def batch(rows, noise=1.2):
    rng = np.random.default_rng(rows)
    a = unit(rng, rows)
    b = a + noise * unit(rng, rows)
    return a, b / np.linalg.norm(b, axis=1, keepdims=True)


def dense(a, b, scale):
    a, b = a.astype(np.float64), b.astype(np.float64)
    cosine, n = a @ b.T, len(a)
    off = ~np.eye(n, dtype=bool)
    rest = [np.array([row[keep] for row, keep in zip(s, off, strict=True)]) for s in (cosine, cosine.T)]
    p = [scipy.special.softmax(scale * r, axis=1) for r in rest]
    right = [np.diag(cosine) > r.max(1) for r in rest]
    return {
        "positive_similarity": np.diag(cosine).mean(),
        "negative_similarity": cosine[off].mean(),
        "alignment": ((a - b) ** 2).sum(1).mean(),
        "accuracy": np.mean(right),
        "effective_negatives": np.mean([1 / (q**2).sum(1) for q in p]),
    }


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("rows", [2, 24, 48])
def test_equals_the_matrix(rows, devices, monkeypatch):
    monkeypatch.setattr(telemetry, "stream", functools.partial(stream, size=5))
    if rows % devices:
        pytest.skip("rows divide over devices in training")
    a, b = batch(rows)
    with jax.set_mesh(mesh(devices)) if devices > 1 else contextlib.nullcontext():
        found = jax.jit(pair_statistics)(a, b, jnp.asarray(9.0))
        spread = jax.jit(uniformity)(a)
    assert {k: float(v) for k, v in found.items()} == pytest.approx(dense(a, b, 9.0), rel=1e-5, abs=1e-6)
    distance = scipy.spatial.distance.pdist(a.astype(np.float64), "sqeuclidean")
    assert float(spread) == pytest.approx(np.log(np.mean(np.exp(-2 * distance))), abs=1e-5)
    if rows > 2:
        assert 0 < float(found["accuracy"]) < 1 and 1 < float(found["effective_negatives"]) < rows - 1


@pytest.mark.parametrize("value", [0.25, np.nan])
def test_what_cannot_be_told_apart_is_wrong(value):
    x = jnp.full((16, 16), value)
    found = pair_statistics(x, x, jnp.asarray(5.0))
    assert found["accuracy"] == 0
    if value == value:
        assert float(found["effective_negatives"]) == pytest.approx(15, rel=1e-4)


def test_half_precision_and_no_gradient():
    a, b = (jnp.asarray(x, jnp.bfloat16) for x in batch(24))
    assert all(v.dtype == jnp.float32 for v in pair_statistics(a, b, jnp.asarray(9.0)).values())
    gradient = jax.grad(lambda z: pair_statistics(z, z, jnp.asarray(9.0))["alignment"])(jnp.asarray(batch(24)[0]))
    np.testing.assert_array_equal(gradient, 0)

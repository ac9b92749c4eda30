"""A loss of one's own is a tile function and what to do with its sums: about ten lines."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigcl.losses import streaming
from bigcl.mesh import batch_sharding, make_mesh


def supervised(za, zb, labels, scale, when):
    """Supervised contrastive loss (Khosla et al. 2020, equation 2) between two views, pairs weighted by nearness in
    time."""

    def tile(rows, columns, scale):
        (a, label, time), (b, other, other_time) = rows, columns
        logits = streaming.logits(a, b, scale)
        nearness = jnp.exp(-jnp.square(time[:, None] - other_time[None]))
        weight = jnp.where(label[:, None] == other[None], nearness, 0.0)
        return (logits,), (weight, weight * logits)

    sums = streaming.stream(tile, (za, labels, when), (zb, labels, when), scale)
    weight, positive = sums.row_sum
    return (sums.row_lse[0] - positive / weight).mean()


def dense(za, zb, labels, scale, when):
    """The same, pair by pair, with whole matrices."""
    log_p = jax.nn.log_softmax(scale * za @ zb.T, axis=1)
    weight = (labels[:, None] == labels[None]) * jnp.exp(-((when[:, None] - when[None]) ** 2))
    return -((weight * log_p).sum(1) / weight.sum(1)).mean()


def test_a_tile_in_bfloat16_is_summed_in_float32():
    """Thousands of columns, of which each adds less than bfloat16 tells apart."""
    rng = np.random.default_rng(0)
    sides = (rng.normal(size=(m, 8)) / np.sqrt(8) for m in (16, 4096))
    a, b = (jnp.asarray(z, jnp.bfloat16) for z in sides)

    def tile(rows, columns, scale):
        logits = scale * (rows @ columns.T)
        return (logits,), (jnp.square(logits),)

    sums = streaming.stream(tile, a, b, jnp.bfloat16(4), paired=lambda r, c, s: (r[:, 0],), size=64)
    logits = np.asarray(tile(a, b, jnp.bfloat16(4))[0][0], np.float64)
    assert {x.dtype for x in jax.tree.leaves(sums)} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(sums.row_lse[0], np.log(np.exp(logits).sum(1)), rtol=1e-5)
    np.testing.assert_allclose(sums.row_sum[0], (logits**2).sum(1), rtol=1e-3)


@pytest.mark.parametrize("devices", [1, 8])
def test_value_and_gradients_are_those_of_the_whole_matrix(devices):
    rng = np.random.default_rng(0)
    za, zb = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in rng.normal(size=(2, 40, 6)).astype(np.float32))
    labels, when = rng.integers(0, 4, 40).astype(np.int32), rng.random(40).astype(np.float32)
    arguments = (za, zb, labels, np.float32(12.0), when)
    grads = lambda loss: jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 3, 4)))  # noqa: E731
    with jax.numpy_dtype_promotion("standard"), jax.default_matmul_precision("highest"):
        expected = grads(dense)(*arguments)

    mesh = make_mesh() if devices == 8 else None
    if mesh is not None:
        arguments = [jax.device_put(x, batch_sharding(mesh)) if x.ndim else x for x in arguments]
    with jax.set_mesh(mesh) if mesh is not None else contextlib.nullcontext():
        got = grads(supervised)(*arguments)
    for g, e in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(g, e, rtol=0, atol=1e-5 * float(jnp.abs(e).max()))

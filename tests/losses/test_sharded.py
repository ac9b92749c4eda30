"""Losses of a batch on eight devices: the numbers of one device, and no device that holds all logits."""

import contextlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bigcl.losses import infonce, sigmoid
from bigcl.mesh import BATCH_AXES, batch_sharding, make_mesh, replicated

MESHES = [
    {"data": 8},
    {"replica": 2, "data": 4},
    {"replica": 2, "data": 2, "fsdp": 2},
    {"fsdp": 8},
    {"data": 2, "fsdp": 2, "tensor": 2},
]
LOSSES = {
    "infonce": lambda za, zb, scale, bias: infonce(za, zb, scale),
    "infonce-smooth": lambda za, zb, scale, bias: infonce(za, zb, scale, label_smoothing=0.1),
    "infonce-a_to_b": lambda za, zb, scale, bias: infonce(za, zb, scale, direction="a_to_b"),
    "infonce-b_to_a": lambda za, zb, scale, bias: infonce(za, zb, scale, direction="b_to_a"),
    "sigmoid": sigmoid,
}
B, D = 32, 16


def inputs():
    za, zb = np.random.default_rng(0).normal(size=(2, B, D)).astype(np.float32)
    za, zb = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (za, zb))
    return za, zb, np.float32(14.0), np.float32(-3.0)


def compiled(loss, mesh, context=True):
    """Value and all gradients, the way a training step has them: plain `jit` over arrays that are sharded by rows,
    under `jax.set_mesh`."""
    rows, whole = batch_sharding(mesh), replicated(mesh)
    arguments = [jax.device_put(x, where) for x, where in zip(inputs(), (rows, rows, whole, whole), strict=True)]
    f = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)), out_shardings=(whole, (rows, rows, whole, whole)))
    with jax.set_mesh(mesh) if context else contextlib.nullcontext():
        return f.lower(*arguments).compile(), arguments


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_equal_to_one_device(name, sizes, context=True):
    expected = jax.jit(jax.value_and_grad(LOSSES[name], argnums=(0, 1, 2, 3)))(*map(jnp.asarray, inputs()))
    f, arguments = compiled(LOSSES[name], make_mesh(**({"data": 1} | sizes)), context)
    for got, want in zip(jax.tree.leaves(f(*arguments)), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * float(jnp.abs(want).max()))


@pytest.mark.parametrize("name", LOSSES)
def test_equal_to_one_device_without_a_mesh_in_the_context(name):
    test_equal_to_one_device(name, {"replica": 2, "data": 2, "fsdp": 2}, context=False)


def shapes(f) -> set[tuple[int, ...]]:
    """The shapes of all float arrays in the program of one device."""
    return {tuple(map(int, s.split(","))) for s in re.findall(r"\bf(?:16|32|64)\[([\d,]+)\]", f.as_text())}


@pytest.mark.parametrize("name", LOSSES)
def test_no_device_holds_all_logits(name):
    f, _ = compiled(LOSSES[name], make_mesh())
    found = shapes(f)
    assert any(s in found for s in [(B // 8, B), (B, B // 8)])
    assert [s for s in found if np.prod(s) >= B * B] == []


def test_the_search_for_all_logits_finds_them():
    where = NamedSharding(make_mesh(), PartitionSpec(BATCH_AXES))
    whole = jax.jit(jax.grad(lambda z: sigmoid(z, z, jnp.float32(1), jnp.float32(0))))
    assert (B, B) in shapes(whole.lower(jax.ShapeDtypeStruct((B, D), jnp.float32)).compile())
    assert where.shard_shape((B, D)) == (B // 8, D)

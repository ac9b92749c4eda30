"""Sums over tiles, on one device and on eight, against the whole matrix."""

import contextlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigcl.losses import infonce, sigmoid, streaming
from bigcl.mesh import batch_sharding, make_mesh

MESH = {"replica": 2, "data": 2, "fsdp": 2}
D = 5


def tile(rows, columns, shared):
    """Two of each kind of array; some pairs, by their labels, take no part in a log-sum-exp."""
    (x, x_label), (y, y_label), (scale, bias) = rows, columns, shared
    logits = scale * (x @ y.T) + bias
    other = jnp.where(x_label[:, None] == y_label[None], streaming.MASKED, logits)
    return (logits, other), (jax.nn.softplus(logits), jnp.sin(logits) * x[:, :1])


def whole(rows, columns, shared):
    """The same sums of the whole matrix."""
    exponentiated, added = tile(rows, columns, shared)
    return streaming.Sums(
        *(tuple(jax.nn.logsumexp(x, axis=axis) for x in exponentiated) for axis in (1, 0)),
        *(tuple(x.sum(axis) for x in added) for axis in (1, 0)),
    )


def arguments(m, n):
    rng = np.random.default_rng(0)
    side = lambda k: (jnp.asarray(rng.normal(size=(k, D)), jnp.float32), jnp.asarray(rng.integers(0, 3, k), jnp.int32))  # noqa: E731
    return side(m), side(n), (jnp.float32(1.5), jnp.float32(-0.5))


def value_and_grads(function, m, n, mesh=None):
    """All sums, and the gradient of a random combination of them with respect to every float argument."""
    rows, columns, shared = arguments(m, n)

    def scalar(x, y, shared, rows, columns):
        sums = function((x, rows[1]), (y, columns[1]), shared)
        rng = np.random.default_rng(1)
        return sum((jnp.asarray(rng.normal(size=s.shape), s.dtype) * s).sum() for s in jax.tree.leaves(sums)), sums

    if mesh is not None:
        rows, columns = jax.device_put((rows, columns), batch_sharding(mesh))
    with jax.set_mesh(mesh) if mesh is not None else contextlib.nullcontext():
        (_, sums), grads = jax.jit(jax.value_and_grad(scalar, argnums=(0, 1, 2), has_aux=True))(
            rows[0], columns[0], shared, rows, columns
        )
    return sums, grads


def assert_same(got, expected):
    for g, e in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(g, e, rtol=0, atol=2e-5 * max(1.0, float(jnp.abs(e).max())))


@pytest.mark.parametrize("size", [1, 4, 5, 2048])
@pytest.mark.parametrize(("m", "n"), [(12, 12), (7, 13), (1, 9)])
def test_tiles_of_any_size(m, n, size):
    got = value_and_grads(lambda *a: streaming.stream(tile, *a, size=size), m, n)
    assert_same(got, value_and_grads(whole, m, n))


@pytest.mark.parametrize("size", [3, 2048])
@pytest.mark.parametrize(("m", "n"), [(16, 16), (8, 24)])
@pytest.mark.parametrize("exchange", ["gather", "ring"])
def test_exchange_between_devices(exchange, m, n, size):
    got = value_and_grads(lambda *a: streaming.stream(tile, *a, exchange=exchange, size=size), m, n, make_mesh(**MESH))
    assert_same(got, value_and_grads(whole, m, n))


@pytest.mark.parametrize(("devices", "m", "n"), [(2, 2, 6), (3, 12, 15), (5, 20, 5), (8, 8, 24)])
def test_ring_of_any_number_of_devices(devices, m, n):
    """Shards of an odd length and of a single row among them, of which no half can go round the other way."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]).reshape(1, devices, 1, 1), make_mesh().axis_names)
    got = value_and_grads(lambda *a: streaming.stream(tile, *a, exchange="ring"), m, n, mesh)
    assert_same(got, value_and_grads(whole, m, n))


def test_the_ring_uses_links_both_ways():
    """Two permutations for each array, one the inverse of the other, that move no more together than one shard."""
    mesh = make_mesh()
    z = jax.ShapeDtypeStruct((64, D), jnp.float32, sharding=batch_sharding(mesh))
    scalar = lambda x, y: streaming.stream(lambda a, b, s: ((a @ b.T,), ()), x, y, exchange="ring").row_lse[0].sum()  # noqa: E731
    with jax.set_mesh(mesh):
        text = jax.jit(scalar).lower(z, z).compile().as_text()
    found = re.findall(rf"f32\[(\d+),{D}\]\S* collective-permute\(.*source_target_pairs={{([{{}}\d,]+)}}}}", text)
    pairs = [sorted(re.findall(r"(\d),(\d)", p)) for _, p in found]
    assert [int(rows) for rows, _ in found] == [4, 4]
    assert pairs[0] == sorted((b, a) for a, b in pairs[1]) != pairs[1]


def test_a_row_without_any_pair_has_finite_sums_and_no_gradient():
    rows, columns, shared = arguments(3, 4)
    same = (rows[0], jnp.zeros(3, jnp.int32)), (columns[0], jnp.zeros(4, jnp.int32))
    total = lambda x: streaming.stream(tile, (x, same[0][1]), same[1], shared).row_lse[1].sum()  # noqa: E731
    value, gradient = jax.jit(jax.value_and_grad(total))(rows[0])
    assert value < -1e29 and np.isfinite(value)
    np.testing.assert_array_equal(gradient, np.zeros((3, D)))


@pytest.mark.parametrize("exchange", ["none", "gather", "ring"])
def test_no_array_of_all_pairs_exists(exchange):
    """With 64 rows and columns and tiles of 4, not even one of an eighth of them."""
    mesh = None if exchange == "none" else make_mesh()

    def scalar(x, y, scale, bias):
        rows, columns = (x, jnp.zeros(64, jnp.int32)), (y, jnp.ones(64, jnp.int32))
        sums = streaming.stream(
            tile, rows, columns, (scale, bias), exchange="gather" if mesh is None else exchange, size=4
        )
        return sum(s.sum() for s in jax.tree.leaves(sums))

    where = None if mesh is None else batch_sharding(mesh)
    side, number = jax.ShapeDtypeStruct((64, D), jnp.float32, sharding=where), jax.ShapeDtypeStruct((), jnp.float32)
    with jax.set_mesh(mesh) if mesh is not None else contextlib.nullcontext():
        text = jax.jit(jax.grad(scalar, argnums=(0, 1, 2, 3))).lower(side, side, number, number).compile().as_text()
    sizes = {np.prod(list(map(int, s.split(",")))) for s in re.findall(r"\bf32\[([\d,]+)\]", text)}
    assert 16 in sizes and max(sizes) <= 64 * max(D, 2) < 64 * 64 / 8


def test_rows_that_do_not_divide_are_an_error():
    with (
        jax.set_mesh(make_mesh()),
        pytest.raises(ValueError, match="12 rows and 16 columns do not divide over 8 devices"),
    ):
        streaming.stream(tile, *arguments(12, 16))


@pytest.mark.parametrize("loss", [infonce, sigmoid])
def test_compiled_memory_is_far_below_one_matrix(loss):
    b = 8192
    z, number = jax.ShapeDtypeStruct((b, 64), jnp.float32), jax.ShapeDtypeStruct((), jnp.float32)
    arguments = (z, z, number, number)[: 3 if loss is infonce else 4]
    program = jax.jit(jax.value_and_grad(loss, argnums=tuple(range(len(arguments))))).lower(*arguments).compile()
    assert program.memory_analysis().temp_size_in_bytes < 4 * b * b / 4

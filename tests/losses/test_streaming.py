"""Sums over tiles, on one device and on eight, against the whole matrix."""

import contextlib
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bigcl import flops
from bigcl.losses import infonce, sigmoid, streaming
from bigcl.mesh import batch_axes, batch_sharding, make_mesh

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


@pytest.mark.parametrize("b", [128, 2047, 2048, 2049, 2100, 4097])
@pytest.mark.parametrize("ring", [False, True])
def test_tiles_are_even(b, ring):
    """A batch a little larger than a tile costs what its pairs cost: four products of each, one for the value."""
    devices = 8 if ring else 1
    side, number = jax.ShapeDtypeStruct((b * devices, D), jnp.float32), jax.ShapeDtypeStruct((), jnp.float32)

    def loss(x, y, scale):
        sums = streaming.stream(
            lambda a, b, s: ((streaming.logits(a, b, s),), ()), x, y, scale, exchange="ring" if ring else "auto"
        )
        return (sums.row_lse[0] + sums.column_lse[0]).sum()

    with jax.set_mesh(make_mesh()) if ring else contextlib.nullcontext():
        counted = flops.count(jax.make_jaxpr(jax.value_and_grad(loss, (0, 1, 2)))(side, side, number))
    needed = 4 * 2 * b * b * devices * D
    assert needed <= counted <= 1.04 * needed


OWN = {
    "one axis": ((8,), ("data",)),
    "beside an unknown one": ((4, 2), ("data", "model")),
    "two, in another order": ((4, 2), ("fsdp", "replica")),
}


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("exchange", ["gather", "ring"])
def test_a_mesh_of_ones_own_needs_one_axis_of_the_batch(monkeypatch, name, exchange, kind):
    shape, names = OWN[name]
    mesh = jax.make_mesh(shape, names, (kind,) * len(names))
    monkeypatch.setattr(streaming, "GATHER_BYTES", 2**40 if exchange == "gather" else 0)
    sides, shared = unit_rows(16), (jnp.float32(4), jnp.float32(-2))
    gradient = jax.value_and_grad(sigmoid, (0, 1, 2, 3))
    where = NamedSharding(mesh, PartitionSpec(batch_axes(mesh)))
    with jax.set_mesh(mesh):
        program = jax.jit(gradient).lower(*(jax.device_put(z, where) for z in sides), *shared).compile()
        got = program(*(jax.device_put(z, where) for z in sides), *shared)
    assert ("all-gather" if exchange == "gather" else "collective-permute") in program.as_text()
    assert_same(got, gradient(*sides, *shared))


def test_a_mesh_without_a_known_axis_is_spoken_of():
    sides = unit_rows(16)
    mesh = Mesh(np.array(jax.devices()), ("batch",))
    where = NamedSharding(mesh, PartitionSpec("batch"))
    with jax.set_mesh(mesh), pytest.warns(UserWarning, match="name the axis of the batch 'data'"):
        got = jax.jit(infonce)(*(jax.device_put(z, where) for z in sides), jnp.float32(3))
    np.testing.assert_allclose(got, infonce(*sides, jnp.float32(3)), rtol=1e-6)


def unit_rows(b, d=8):
    z = np.random.default_rng(3).normal(size=(2, b, d))
    return [jnp.asarray(x, jnp.float32) for x in z / np.linalg.norm(z, axis=2, keepdims=True)]


def matrix_infonce(za, zb, scale, bias):
    x = scale * za @ zb.T
    return sum((jax.nn.logsumexp(y, axis=1) - jnp.diagonal(y)).mean() for y in (x, x.T)) / 2 + 0 * bias


def matrix_sigmoid(za, zb, scale, bias):
    x = (scale * za @ zb.T + bias) * (1 - 2 * jnp.eye(len(za)))
    return jnp.logaddexp(x, 0).sum() / len(za)


LOSSES = {
    "infonce": (lambda za, zb, scale, bias: infonce(za, zb, scale), matrix_infonce),
    "sigmoid": (sigmoid, matrix_sigmoid),
}


@pytest.mark.parametrize("exchange", ["none", "gather", "ring"])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_several_tiles_are_those_of_the_matrix(monkeypatch, name, exchange):
    """Value and every gradient in float32, of pairs that belong together and others, at temperatures 1 and 0.01."""
    monkeypatch.setattr(streaming, "TILE", 3)
    monkeypatch.setattr(streaming, "GATHER_BYTES", 2**40 if exchange == "gather" else 0)
    loss, matrix = LOSSES[name]
    za, zb = unit_rows(40, 16)
    zb = zb.at[::2].set((za + 0.5 * zb)[::2])
    zb = zb / jnp.linalg.norm(zb, axis=1, keepdims=True)
    mesh = None if exchange == "none" else make_mesh(**MESH)
    rows = za, zb
    if mesh is not None:
        rows = jax.device_put(rows, batch_sharding(mesh))
    with jax.set_mesh(mesh) if mesh is not None else contextlib.nullcontext():
        program = jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3)))
        found = {scale: program(*rows, jnp.float32(scale), jnp.float32(-3)) for scale in (1, 100)}
    with jax.enable_x64(True):
        for scale, got in found.items():
            arguments = (jnp.asarray(x, jnp.float64) for x in (za, zb, scale, -3))
            expected = jax.device_get(jax.jit(jax.value_and_grad(matrix, (0, 1, 2, 3)))(*arguments))
            for g, e in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
                np.testing.assert_allclose(g, e, rtol=0, atol=1e-5 * float(np.abs(e).max()))


def test_size_chooses_the_exchange(monkeypatch):
    """All columns, labels and the like included, are gathered as long as they fit."""
    side = jax.ShapeDtypeStruct((64, D), jnp.float32), jax.ShapeDtypeStruct((64,), jnp.int32)
    number = jax.ShapeDtypeStruct((), jnp.float32)
    size = 64 * (D + 1) * 4
    for limit, used, other in ((size, "all_gather", "ppermute"), (size - 1, "ppermute", "all_gather")):
        monkeypatch.setattr(streaming, "GATHER_BYTES", limit)
        with jax.set_mesh(make_mesh()):
            program = str(jax.make_jaxpr(lambda *a: streaming.stream(tile, *a))(side, side, (number, number)))
        assert used in program and other not in program


@pytest.mark.parametrize("devices", [1, 8])
def test_an_exchange_that_there_is_not_is_an_error(devices):
    stream = inspect.unwrap(streaming.stream)  # without the checks of types that tests alone have
    message = "exchange 'rnig' is none of 'auto', 'gather', 'ring'"
    with jax.set_mesh(make_mesh(devices=jax.devices()[:devices])), pytest.raises(ValueError, match=message):
        stream(tile, *arguments(8, 8), exchange="rnig")


def products(jaxpr):
    """All matrix products of a program."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            yield eqn
        inner = [x for x in jax.tree.leaves(list(eqn.params.values()), is_leaf=flops.is_jaxpr) if flops.is_jaxpr(x)]
        for x in inner:
            yield from products(getattr(x, "jaxpr", x))


def test_products_of_float32_are_exact_everywhere():
    """On a TPU, where the default is one pass in bfloat16."""
    loss = lambda *a: infonce(*a, label_smoothing=0.1, mask=jnp.arange(8) < 6, labels=jnp.arange(8) % 3)  # noqa: E731
    program = jax.make_jaxpr(jax.value_and_grad(loss, (0, 1, 2)))(*unit_rows(8), jnp.float32(2))
    found = list(products(program.jaxpr))
    assert len(found) >= 8
    assert {eqn.params["precision"] for eqn in found} == {(jax.lax.Precision.HIGHEST,) * 2}


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


def test_few_rows_that_do_not_divide_are_computed_by_each_device():
    """As those of a sample, fewer than there are devices."""
    rows, columns, shared = arguments(12, 5)
    with jax.set_mesh(make_mesh()):
        found = jax.jit(lambda *a: streaming.stream(tile, *a))(rows, columns, shared)
    jax.tree.map(
        lambda got, expected: np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5),
        tuple(found[:4]),
        tuple(whole(rows, columns, shared)[:4]),
    )


def test_many_rows_that_do_not_divide_are_an_error():
    shapes = jax.eval_shape(lambda: arguments(2**13 + 4, 2**13))
    with (
        jax.set_mesh(make_mesh()),
        pytest.raises(ValueError, match="8196 rows and 8192 columns do not divide over 8 devices"),
    ):
        jax.eval_shape(lambda *a: streaming.stream(tile, *a), *shapes)


@pytest.mark.parametrize("loss", [infonce, sigmoid])
def test_compiled_memory_is_far_below_one_matrix(loss):
    b = 8192
    z, number = jax.ShapeDtypeStruct((b, 64), jnp.float32), jax.ShapeDtypeStruct((), jnp.float32)
    arguments = (z, z, number, number)[: 3 if loss is infonce else 4]
    program = jax.jit(jax.value_and_grad(loss, argnums=tuple(range(len(arguments))))).lower(*arguments).compile()
    assert program.memory_analysis().temp_size_in_bytes < 4 * b * b / 4


@pytest.mark.parametrize("loss", [infonce, sigmoid])
def test_gradients_are_summed_where_they_are_returned(monkeypatch, loss):
    """Beside inputs and gradients no array as large as one side exists, and no padded copy of one."""
    monkeypatch.setattr(streaming, "TILE", 256)
    for b in (16384, 16384 - 100):
        z, number = jax.ShapeDtypeStruct((b, 512), jnp.float32), jax.ShapeDtypeStruct((), jnp.float32)
        arguments = (z, z, number, number)[: 3 if loss is infonce else 4]
        program = jax.jit(jax.value_and_grad(loss, argnums=tuple(range(len(arguments))))).lower(*arguments).compile()
        assert program.memory_analysis().temp_size_in_bytes < 4 * b * 512 / 8

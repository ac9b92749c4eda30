"""Sums over all pairs of two sides, in memory that does not grow with the number of pairs.

A contrastive loss compares each of M rows with each of N columns and needs, of that matrix, only sums along rows and
columns. `stream` walks the matrix in tiles that a function computes, keeps running log-sum-exps and sums, and computes
the tiles anew for the gradient: no array of M x N exists, forward or backward, and one tile serves both directions.
With the two sides sharded over the batch axes of a mesh, each device holds its own rows and either gathers the columns
once (`exchange="gather"`) or passes them around a ring (`exchange="ring"`), a shard at a time.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from bigcl.losses.similarity import at_least_float32

MASKED = -1e30
"""The logit of a pair that does not take part: finite, so that a row without any pair has finite sums and a zero
gradient."""

TILE = 2048
"""Rows and columns of a tile: 16 MiB of float32."""

GATHER_BYTES = 2**28
"""Columns are gathered while all of them fit in this many bytes, else they go round the ring."""

BATCH_AXES = ("replica", "data", "fsdp")

Tile = Callable[[Any, Any, Any], tuple[tuple[Array, ...], tuple[Array, ...]]]
"""`tile(rows, columns, shared) -> (exponentiated, added)`: tuples of [m, n] arrays of the pairs of some rows with some
columns."""


class Sums(NamedTuple):
    """What `stream` returns: for each array of `exponentiated` its log-sum-exp, for each of `added` its sum, along rows
    [M] and along columns [N]."""

    row_lse: tuple[Float[Array, "m"], ...]
    column_lse: tuple[Float[Array, "n"], ...]
    row_sum: tuple[Float[Array, "m"], ...]
    column_sum: tuple[Float[Array, "n"], ...]


def stream(
    tile: Tile,
    rows: Any,
    columns: Any,
    shared: Any = (),
    *,
    exchange: Literal["auto", "gather", "ring"] = "auto",
    size: int = TILE,
) -> Sums:
    """Sums over all pairs of `rows` and `columns`, differentiable with respect to every float array.

    tile: computes the pairs of some rows with some columns from slices of the arguments. It must be a pure function of
        them.
    rows, columns: pytrees of arrays with M and N rows: embeddings, labels, weights, indices, whatever the pairs depend
        on.
    shared: pytree of what all pairs share, such as scale and bias.
    exchange: how devices get the columns of the others, inside `jax.set_mesh` of a mesh with batch axes.
    size: rows and columns of a tile.
    """
    shards = batch_shards()
    m, n = (jax.tree.leaves(side)[0].shape[0] for side in (rows, columns))
    if shards > 1 and (m % shards or n % shards):
        raise ValueError(f"streaming: {m} rows and {n} columns do not divide over {shards} devices")
    if exchange == "auto":
        total = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(columns))
        exchange = "gather" if total <= GATHER_BYTES else "ring"
    plan = Plan(tile, size, exchange if shards > 1 else "none")
    return _stream(plan, rows, columns, shared)


class Plan(NamedTuple):
    """What of a call is known while tracing."""

    tile: Tile
    size: int
    exchange: str


def batch_shards() -> int:
    """Devices that the batch is split over in the mesh of the context; 1 without one."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty or mesh._any_axis_manual else math.prod(mesh.shape.get(a, 1) for a in BATCH_AXES)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _stream(plan: Plan, rows: Any, columns: Any, shared: Any) -> Sums:
    return _forward(plan, rows, columns, shared)[0]


def _forward(plan: Plan, rows: Any, columns: Any, shared: Any) -> tuple[Sums, Any]:
    forward = {"none": local_forward, "gather": gather_forward, "ring": ring_forward}[plan.exchange]
    sums = on_devices(plan, functools.partial(forward, plan), (True, True, False), True)(rows, columns, shared)
    return sums, (rows, columns, shared, sums)


def _backward(plan: Plan, residuals: Any, cotangents: Sums) -> tuple[Any, Any, Any]:
    rows, columns, shared, sums = residuals
    backward = {"none": local_backward, "gather": gather_backward, "ring": ring_backward}[plan.exchange]
    run = on_devices(plan, functools.partial(backward, plan), (True, True, False, True, True), (True, True, False))
    arguments = (rows, columns, shared)
    return jax.tree.map(no_tangent, arguments, run(*arguments, sums, cotangents))


def no_tangent(x: Array, gradient: Array | None) -> Any:
    """JAX's zero for the gradient of an integer."""
    return np.zeros(x.shape, jax.dtypes.float0) if gradient is None else gradient


_stream.defvjp(_forward, _backward)


def on_devices(plan: Plan, function: Callable[..., Any], split: tuple[bool, ...], out: Any) -> Callable[..., Any]:
    """`function` as it is on one device, or for each shard of the batch on several; `split`, `out`: which arguments and
    results are sharded by rows."""
    if plan.exchange == "none":
        return function
    spec = {True: PartitionSpec(BATCH_AXES), False: PartitionSpec()}
    specs = jax.tree.map(spec.get, (split, out))
    return jax.shard_map(function, in_specs=specs[0], out_specs=specs[1], check_vma=False)


# One device: a scan over tiles of rows, and in it one over tiles of columns.


class Running(NamedTuple):
    """Sums so far along one side: maximum and sum of exponentials of each exponentiated array, sum of each added
    one."""

    top: tuple[Array, ...]
    mass: tuple[Array, ...]
    sum: tuple[Array, ...]

    def add(self, exponentiated: tuple[Array, ...], added: tuple[Array, ...], axis: int) -> "Running":
        """With the pairs of one more tile."""
        tops = tuple(jnp.maximum(t, x.max(axis)) for t, x in zip(self.top, exponentiated, strict=True))
        masses = tuple(
            mass * jnp.exp(old - new) + jnp.exp(x - jnp.expand_dims(new, axis)).sum(axis)
            for mass, old, new, x in zip(self.mass, self.top, tops, exponentiated, strict=True)
        )
        return Running(tops, masses, tuple(s + x.sum(axis) for s, x in zip(self.sum, added, strict=True)))

    def lse(self) -> tuple[Array, ...]:
        """The log-sum-exps."""
        return tuple(t + jnp.log(m) for t, m in zip(self.top, self.mass, strict=True))


def start(plan: Plan, rows: Any, columns: Any, shared: Any) -> tuple[Running, Running]:
    """The sums of nothing, for the rows and for the columns."""
    exponentiated, added = jax.eval_shape(plan.tile, rows, columns, shared)

    def side(axis: int) -> Running:
        full = [jnp.full(x.shape[axis], MASKED, x.dtype) for x in exponentiated]
        return Running(
            tuple(full), tuple(map(jnp.zeros_like, full)), tuple(jnp.zeros(x.shape[axis], x.dtype) for x in added)
        )

    return side(0), side(1)


def cut(tree: Any, size: int) -> tuple[Any, Array | None]:
    """Arrays [M, ...] as [tiles, size, ...], filled up with the first row, and which of the rows are real (None: all
    of them)."""
    m = jax.tree.leaves(tree)[0].shape[0]
    size = min(size, m)
    tiles = -(-m // size)
    missing = tiles * size - m

    def reshape(x: Array) -> Array:
        filled = jnp.concatenate([x, jnp.broadcast_to(x[:1], (missing, *x.shape[1:]))]) if missing else x
        return filled.reshape(tiles, size, *x.shape[1:])

    return jax.tree.map(reshape, tree), (jnp.arange(tiles * size) < m).reshape(tiles, size) if missing else None


def join(tree: Any, m: int) -> Any:
    """The inverse of `cut`."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:m], tree)


def masked(tile: Tile, row_valid: Array | None, column_valid: Array | None) -> Tile:
    """A tile function whose padding takes no part."""

    def masked_tile(rows: Any, columns: Any, shared: Any) -> Any:
        pairs: Any = tile(rows, columns, shared)
        for valid, axis in ((row_valid, 1), (column_valid, 0)):
            if valid is not None:
                keep = jnp.expand_dims(valid, axis)
                pairs = tuple(
                    tuple(jnp.where(keep, x, jnp.asarray(fill, x.dtype)) for x in arrays)
                    for arrays, fill in zip(pairs, (MASKED, 0), strict=True)
                )
        return pairs

    return masked_tile


def walk(
    plan: Plan, rows: Any, columns: Any, shared: Any, row_sums: Running, column_sums: Running
) -> tuple[Running, Running]:
    """Adds all pairs of `rows` and `columns` to the sums of both sides."""
    m, n = (jax.tree.leaves(side)[0].shape[0] for side in (rows, columns))
    (row_tiles, row_sums), row_valid = cut((rows, row_sums), plan.size)
    (column_tiles, column_sums), column_valid = cut((columns, column_sums), plan.size)

    def one_row_tile(column_sums: Running, inputs: Any) -> tuple[Running, Running]:
        r, r_sums, r_valid = inputs

        def one_tile(r_sums: Running, inputs: Any) -> tuple[Running, Running]:
            c, c_sums, c_valid = inputs
            pairs = masked(plan.tile, r_valid, c_valid)(r, c, shared)
            return r_sums.add(*pairs, axis=1), c_sums.add(*pairs, axis=0)

        r_sums, column_sums = jax.lax.scan(one_tile, r_sums, (column_tiles, column_sums, column_valid))
        return column_sums, r_sums

    column_sums, row_sums = jax.lax.scan(one_row_tile, column_sums, (row_tiles, row_sums, row_valid))
    return join(row_sums, m), join(column_sums, n)


def local_forward(plan: Plan, rows: Any, columns: Any, shared: Any) -> Sums:
    """All pairs on this device."""
    r, c = walk(plan, rows, columns, shared, *start(plan, rows, columns, shared))
    return Sums(r.lse(), c.lse(), r.sum, c.sum)


class Side(NamedTuple):
    """What the gradient needs to know of one side: log-sum-exps, and the cotangents of log-sum-exps and sums."""

    lse: tuple[Array, ...]
    d_lse: tuple[Array, ...]
    d_sum: tuple[Array, ...]


def sides(sums: Sums, cotangents: Sums) -> tuple[Side, Side]:
    """Of rows and of columns."""
    return (
        Side(sums.row_lse, cotangents.row_lse, cotangents.row_sum),
        Side(sums.column_lse, cotangents.column_lse, cotangents.column_sum),
    )


def walk_back(
    plan: Plan,
    rows: Any,
    columns: Any,
    shared: Any,
    row: Side,
    column: Side,
    d_rows: Any,
    d_columns: Any,
    d_shared: Any,
) -> tuple[Any, Any, Any]:
    """Adds the gradient of all pairs of `rows` and `columns` to those of both sides and of what is shared; each tile is
    computed anew."""
    m, n = (jax.tree.leaves(side)[0].shape[0] for side in (rows, columns))
    (row_tiles, row, d_rows), row_valid = cut((rows, row, d_rows), plan.size)
    (column_tiles, column, d_columns), column_valid = cut((columns, column, d_columns), plan.size)

    def one_row_tile(carry: Any, inputs: Any) -> tuple[Any, Any]:
        d_columns, d_shared = carry
        r, r_side, d_r, r_valid = inputs

        def one_tile(carry: Any, inputs: Any) -> tuple[Any, Any]:
            d_r, d_shared = carry
            c, c_side, d_c, c_valid = inputs
            gradient = tile_gradient(masked(plan.tile, r_valid, c_valid), (r, c, shared), r_side, c_side)
            return (plus(d_r, gradient[0]), plus(d_shared, gradient[2])), plus(d_c, gradient[1])

        (d_r, d_shared), d_columns = jax.lax.scan(
            one_tile, (d_r, d_shared), (column_tiles, column, d_columns, column_valid)
        )
        return (d_columns, d_shared), d_r

    (d_columns, d_shared), d_rows = jax.lax.scan(
        one_row_tile, (d_columns, d_shared), (row_tiles, row, d_rows, row_valid)
    )
    return join(d_rows, m), join(d_columns, n), d_shared


def tile_gradient(tile: Tile, arguments: tuple[Any, Any, Any], row: Side, column: Side) -> tuple[Any, Any, Any]:
    """The gradient of one tile with respect to the float arrays among its arguments (None for the others)."""
    floats, rebuild = split_floats(arguments)
    (exponentiated, added), pull = jax.vjp(lambda floats: tile(*rebuild(floats)), floats)
    d_exponentiated = tuple(
        jnp.exp(x - r_lse[:, None]) * d_r[:, None] + jnp.exp(x - c_lse[None]) * d_c[None]
        for x, r_lse, d_r, c_lse, d_c in zip(exponentiated, row.lse, row.d_lse, column.lse, column.d_lse, strict=True)
    )
    d_added = tuple(
        jnp.broadcast_to(d_r[:, None] + d_c[None], x.shape)
        for x, d_r, d_c in zip(added, row.d_sum, column.d_sum, strict=True)
    )
    return pull((d_exponentiated, d_added))[0]


def is_float(x: Array) -> bool:
    """Whether an array has a gradient."""
    return jnp.issubdtype(x.dtype, jnp.inexact)


def split_floats(tree: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The tree with None in place of what has no gradient, and a function that puts those arrays back."""
    floats = jax.tree.map(lambda x: x if is_float(x) else None, tree)
    return floats, lambda floats: jax.tree.map(
        lambda x, f: x if f is None else f, tree, floats, is_leaf=lambda v: v is None
    )


def plus(total: Any, gradient: Any) -> Any:
    """Gradients are summed in float32 or better."""
    return jax.tree.map(lambda t, g: t + g.astype(t.dtype), total, gradient)


def no_gradient(tree: Any) -> Any:
    """Zeros to sum gradients in."""
    return jax.tree.map(lambda x: jnp.zeros_like(at_least_float32(x)) if is_float(x) else None, tree)


def like(gradient: Any, tree: Any) -> Any:
    """Gradients in the dtype of what they are gradients of."""
    return jax.tree.map(
        lambda x, g: None if g is None else g.astype(x.dtype), tree, gradient, is_leaf=lambda v: v is None
    )


def local_backward(
    plan: Plan, rows: Any, columns: Any, shared: Any, sums: Sums, cotangents: Sums
) -> tuple[Any, Any, Any]:
    """The gradient of all pairs on this device."""
    arguments = (rows, columns, shared)
    return like(walk_back(plan, *arguments, *sides(sums, cotangents), *map(no_gradient, arguments)), arguments)


# Several devices, columns gathered: each device adds its rows to partial sums of all columns, which are then put
# together, each shard at its owner.


def gather(tree: Any) -> Any:
    """All shards, in order."""
    return jax.tree.map(lambda x: jax.lax.all_gather(x, BATCH_AXES, tiled=True), tree)


def scatter_sum(tree: Any) -> Any:
    """Sums over devices, of which each keeps its shard."""
    return jax.tree.map(lambda x: jax.lax.psum_scatter(x, BATCH_AXES, tiled=True), tree)


def gather_forward(plan: Plan, rows: Any, columns: Any, shared: Any) -> Sums:
    """All pairs of this device's rows; sums of this device's rows and columns."""
    everything = gather(columns)
    r, c = walk(plan, rows, everything, shared, *start(plan, rows, everything, shared))
    tops = tuple(jax.lax.pmax(t, BATCH_AXES) for t in c.top)
    masses = scatter_sum(tuple(m * jnp.exp(mine - top) for m, mine, top in zip(c.mass, c.top, tops, strict=True)))
    return Sums(
        r.lse(), tuple(own_shard(t) + jnp.log(m) for t, m in zip(tops, masses, strict=True)), r.sum, scatter_sum(c.sum)
    )


def own_shard(x: Array) -> Array:
    """This device's rows of an array that all devices hold."""
    size = x.shape[0] // jax.lax.axis_size(BATCH_AXES)
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(BATCH_AXES) * size, size)


def gather_backward(
    plan: Plan, rows: Any, columns: Any, shared: Any, sums: Sums, cotangents: Sums
) -> tuple[Any, Any, Any]:
    """Gradients of this device's rows and columns, and of what is shared."""
    row, column = sides(sums, cotangents)
    everything, column = gather((columns, column))
    zeros = map(no_gradient, (rows, everything, shared))
    d_rows, d_columns, d_shared = walk_back(plan, rows, everything, shared, row, column, *zeros)
    return like((d_rows, scatter_sum(d_columns), jax.lax.psum(d_shared, BATCH_AXES)), (rows, columns, shared))


# Several devices in a ring: shards of columns travel with their sums, and are home again after one round.


def pass_on(tree: Any) -> Any:
    """Half of each shard to the next device of the ring, the other half to the one before, as in the bidirectional ring
    of SigLIP (Zhai et al. 2023): a link carries both ways at once, so a step takes half the time, and all halves are
    home again after one round."""
    n = jax.lax.axis_size(BATCH_AXES)
    ahead = [(i, (i + 1) % n) for i in range(n)]
    back = [(j, i) for i, j in ahead]

    def both_ways(x: Array) -> Array:
        half = len(x) // 2
        return jnp.concatenate(
            [jax.lax.ppermute(part, BATCH_AXES, to) for part, to in ((x[:half], ahead), (x[half:], back))]
        )

    return jax.tree.map(both_ways, tree)


def ring_forward(plan: Plan, rows: Any, columns: Any, shared: Any) -> Sums:
    """All pairs of this device's rows; sums of this device's rows and columns."""

    def visit(carry: Any, _: None) -> tuple[Any, None]:
        columns, r, c = carry
        following = pass_on(columns)  # does not wait for the tiles, and so travels while they are computed
        r, c = walk(plan, rows, columns, shared, r, c)
        return (following, r, pass_on(c)), None

    carry = (columns, *start(plan, rows, columns, shared))
    (_, r, c), _ = jax.lax.scan(visit, carry, length=jax.lax.axis_size(BATCH_AXES))
    return Sums(r.lse(), c.lse(), r.sum, c.sum)


def ring_backward(
    plan: Plan, rows: Any, columns: Any, shared: Any, sums: Sums, cotangents: Sums
) -> tuple[Any, Any, Any]:
    """Gradients of this device's rows and columns, and of what is shared."""
    row, column = sides(sums, cotangents)
    d_rows, d_columns, d_shared = map(no_gradient, (rows, columns, shared))

    def visit(carry: Any, _: None) -> tuple[Any, None]:
        columns, column, d_rows, d_columns, d_shared = carry
        following = pass_on((columns, column))
        d_rows, d_columns, d_shared = walk_back(plan, rows, columns, shared, row, column, d_rows, d_columns, d_shared)
        return (*following, d_rows, pass_on(d_columns), d_shared), None

    carry = (columns, column, d_rows, d_columns, d_shared)
    (_, _, d_rows, d_columns, d_shared), _ = jax.lax.scan(visit, carry, length=jax.lax.axis_size(BATCH_AXES))
    return like((d_rows, d_columns, jax.lax.psum(d_shared, BATCH_AXES)), (rows, columns, shared))


# What the plain losses need.


def logits(
    za: Float[Array, "m d"], zb: Float[Array, "n d"], scale: Float[Array, ""], bias: Float[Array, ""] | None = None
) -> Float[Array, "m n"]:
    """`scale * za @ zb.T + bias` in float32 or better.

    float32 embeddings: products as exact as float32 is, forward and backward; a TPU makes six passes for each.
    bfloat16 embeddings: one pass. Logits are sums of exact products in float32. For the gradient, the derivative by
    each logit, computed in float32, is rounded once to bfloat16, as attention kernels do, and the product summed in
    float32: the error is about that of rounding the gradient to bfloat16, which follows. float16 embeddings: the same
    forward, but the derivatives stay float32, since float16 holds nothing below 6e-8 or above 65,504.
    """
    x = dots(za, zb)
    x = x * scale.astype(x.dtype)
    return x if bias is None else x + bias.astype(x.dtype)


@jax.custom_vjp
def dots(za: Float[Array, "m d"], zb: Float[Array, "n d"]) -> Float[Array, "m n"]:
    """The inner product of each row with each other."""
    return product("md,nd->mn", za, zb)


def product(equation: str, x: Array, y: Array) -> Array:
    """A matrix product summed in float32 or better, free of reduced-precision passes for float32 inputs."""
    precision = None if x.dtype.itemsize < 4 else jax.lax.Precision.HIGHEST
    return jnp.einsum(equation, x, y, precision=precision, preferred_element_type=at_least_float32(x).dtype)


def _dots_backward(residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    dtype = residuals[0].dtype
    za, zb = (at_least_float32(z) if dtype == jnp.float16 else z for z in residuals)
    # Without the barrier XLA computes the derivatives, exponentials and all, once for each of the two products.
    gradient = jax.lax.optimization_barrier(gradient.astype(za.dtype))
    d_za, d_zb = product("mn,nd->md", gradient, zb), product("mn,md->nd", gradient, za)
    return d_za.astype(dtype), d_zb.astype(dtype)


dots.defvjp(lambda za, zb: (dots(za, zb), (za, zb)), _dots_backward)


def softplus_sums(
    za: Float[Array, "m d"], zb: Float[Array, "n d"], scale: Float[Array, ""], bias: Float[Array, ""]
) -> tuple[Float[Array, "m"], Float[Array, "n"]]:
    """Sums of `log(1 + exp(logit))` along each row and along each column."""
    sums = stream(lambda a, b, s: ((), (softplus(logits(a, b, *s)),)), za, zb, (scale, bias))
    return sums.row_sum[0], sums.column_sum[0]


def softplus_sum(
    za: Float[Array, "m d"], zb: Float[Array, "n d"], scale: Float[Array, ""], bias: Float[Array, ""]
) -> Float[Array, ""]:
    """Sum of `log(1 + exp(logit))` over all pairs."""
    return softplus_sums(za, zb, scale, bias)[0].sum()


@jax.custom_jvp
def softplus(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """`log(1 + exp(x))`, with the sigmoid as its derivative; that of `jax.nn.softplus` computes the value first."""
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


softplus.defjvps(lambda tangent, value, x: jax.nn.sigmoid(x) * tangent)


def paired_logits(za: Float[Array, "b d"], zb: Float[Array, "b d"], scale: Float[Array, ""]) -> Float[Array, "b"]:
    """The diagonal: logits of row i with row i."""
    return scale.astype(at_least_float32(za).dtype) * (at_least_float32(za) * at_least_float32(zb)).sum(-1)

"""Sums over all pairs of two sides, in memory that does not grow with the number of pairs.

A contrastive loss compares each of M rows with each of N columns and needs, of that matrix, only sums along rows and
columns. `stream` walks the matrix in tiles that a function computes, keeps running log-sum-exps and sums, and computes
the tiles anew for the gradient: no array of M x N exists, forward or backward, and one tile serves both directions.
With the two sides sharded over the batch axes of a mesh, each device holds its own rows and either gathers the columns
once (`exchange="gather"`) or passes them around a ring (`exchange="ring"`), a shard at a time.
"""

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from bigcl.losses.halves import halves, is_halves, rounded, whole
from bigcl.losses.similarity import at_least_float32
from bigcl.mesh import AXES, batch_axes

MASKED = -1e30
"""The logit of a pair that does not take part: finite, so that a row without any pair has finite sums and a zero
gradient."""

TILE = 2048
"""Rows and columns of a tile: 16 MiB of float32."""

GATHER_BYTES = 2**28
"""Columns are gathered while all of them fit in this many bytes, else they go round the ring."""

HALVES_BYTES = 2**28
"""Sums of the gradient of bfloat16 columns are kept in `halves` if they take more than this in float32: at the most 8%
slower by the schedules of TPUs, and half the memory."""

Tile = Callable[[Any, Any, Any], tuple[tuple[Array, ...], tuple[Array, ...]]]
"""`tile(rows, columns, shared) -> (exponentiated, added)`: tuples of [m, n] arrays of the pairs of some rows with some
columns."""

Paired = Callable[[Any, Any, Any], tuple[Array, ...]]
"""`paired(rows, columns, shared)`: tuple of [m] arrays of row i with column i."""


class Sums(NamedTuple):
    """What `stream` returns: for each array of `exponentiated` its log-sum-exp, for each of `added` its sum, along rows
    [M] and along columns [N]; and what `paired` gives [M]."""

    row_lse: tuple[Float[Array, "m"], ...]
    column_lse: tuple[Float[Array, "n"], ...]
    row_sum: tuple[Float[Array, "m"], ...]
    column_sum: tuple[Float[Array, "n"], ...]
    paired: tuple[Float[Array, "m"], ...] = ()


def no_pairs(rows: Any, columns: Any, shared: Any) -> tuple[Array, ...]:
    """Nothing of row i with column i."""
    return ()


def stream(
    tile: Tile,
    rows: Any,
    columns: Any,
    shared: Any = (),
    *,
    paired: Paired = no_pairs,
    exchange: Literal["auto", "gather", "ring"] = "auto",
    size: int | None = None,
) -> Sums:
    """Sums over all pairs of `rows` and `columns`, differentiable with respect to every float array.

    tile: computes the pairs of some rows with some columns from slices of the arguments. It must be a pure function of
        them; what it gives in half precision is summed in float32.
    rows, columns: pytrees of arrays with M and N rows: embeddings, labels, weights, indices, whatever the pairs depend
        on.
    shared: pytree of what all pairs share, such as scale and bias.
    paired: what is wanted of row i with column i, as positive logits, where M = N. Asked for here, its gradient is what
        the sums of the others start from, and takes no memory of its own.
    exchange: how devices get the columns of the others, inside `jax.set_mesh` of a mesh with batch axes (`bigcl.mesh`),
        any of them.
    size: rows and columns of a tile at the most; None: TILE.

    Raises ValueError for more pairs than a tile has, of rows or columns that the devices cannot share evenly, and for
    another exchange.
    """
    if exchange not in ("auto", "gather", "ring"):
        raise ValueError(f"streaming: exchange {exchange!r} is none of 'auto', 'gather', 'ring'")
    axes, shards = split()
    m, n = (jax.tree.leaves(side)[0].shape[0] for side in (rows, columns))
    if m % shards or n % shards:
        if m * n > TILE**2:
            raise ValueError(f"streaming: {m} rows and {n} columns do not divide over {shards} devices")
        shards = 1  # each device computes all of so few
    if exchange == "auto":
        total = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(columns))
        exchange = "gather" if total <= GATHER_BYTES else "ring"
    plan = Plan(summable(tile), summable(paired), size or TILE, exchange if shards > 1 else "none", axes)
    return _stream(plan, rows, columns, shared)


def summable(pairs: Callable[..., Any]) -> Callable[..., Any]:
    """A function of pairs whose arrays are float32 or better: a sum of thousands in bfloat16 has two digits."""
    return lambda *arguments: jax.tree.map(at_least_float32, pairs(*arguments))


class Plan(NamedTuple):
    """What of a call is known while tracing."""

    tile: Tile
    paired: Paired
    size: int
    exchange: str
    axes: tuple[str, ...]


def split() -> tuple[tuple[str, ...], int]:
    """The axes, of the mesh in context, that the batch is split over, and over how many devices; one without a mesh.

    Warns of a mesh of which no axis is known: the sums are right, but nothing says how to share the work.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.manual_axes:
        return (), 1
    axes = batch_axes(mesh)
    if mesh.size > 1 and not set(mesh.axis_names) & set(AXES):
        warnings.warn(
            f"streaming: the mesh has axes {mesh.axis_names}, none of {AXES}, so the pairs are not split over its "
            "devices; name the axis of the batch 'data'",
            stacklevel=3,
        )
    return axes, math.prod(mesh.shape[a] for a in axes)


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
    spec = {True: PartitionSpec(plan.axes), False: PartitionSpec()}
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


def tiles(tree: Any, size: int) -> tuple[int, int]:
    """How many tiles there are of the rows of these arrays, and how many rows each has: at most `size`, and alike but
    for what rounding large ones to 16, which matrix units like, takes."""
    m = jax.tree.leaves(tree)[0].shape[0]
    even = -(-m // -(-m // size))
    rounded = -(-even // 16) * 16
    even = rounded if 128 <= even < m and rounded <= size else even
    return -(-m // even), even


def take(tree: Any, index: Array, size: int) -> tuple[Any, Array | None]:
    """The rows of a tile, and which of them are new (None: all). The last tile ends with the last row, and so may begin
    with rows of the one before it."""
    m = jax.tree.leaves(tree)[0].shape[0]
    rows = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first_row(m, index, size), size), tree)
    new = first_row(m, index, size) + jnp.arange(size, dtype=index.dtype) >= index * size
    return rows, new if m % size else None


def put(tree: Any, rows: Any, index: Array, size: int) -> Any:
    """The arrays with the rows of a tile replaced, in place."""
    m = jax.tree.leaves(tree)[0].shape[0] if jax.tree.leaves(tree) else 0
    update = lambda x, r: jax.lax.dynamic_update_slice_in_dim(x, r, first_row(m, index, size), 0)  # noqa: E731
    return jax.tree.map(update, tree, rows)


def first_row(m: int, index: Array, size: int) -> Array:
    """Of a tile."""
    return index * size if m % size == 0 else jnp.minimum(index * size, m - size)


def masked(tile: Tile, row_valid: Array | None, column_valid: Array | None) -> Tile:
    """A tile function in which pairs of rows and columns that are not new take no part."""

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
    (row_tiles, m), (column_tiles, n) = tiles(rows, plan.size), tiles(columns, plan.size)

    def one_row_tile(carry: tuple[Running, Running], i: Array) -> tuple[Any, None]:
        row_sums, column_sums = carry
        (r, r_sums), r_new = take((rows, row_sums), i, m)

        def one_tile(carry: tuple[Running, Running], j: Array) -> tuple[Any, None]:
            r_sums, column_sums = carry
            (c, c_sums), c_new = take((columns, column_sums), j, n)
            pairs = masked(plan.tile, r_new, c_new)(r, c, shared)
            return (r_sums.add(*pairs, axis=1), put(column_sums, c_sums.add(*pairs, axis=0), j, n)), None

        (r_sums, column_sums), _ = jax.lax.scan(one_tile, (r_sums, column_sums), jnp.arange(column_tiles))
        return (put(row_sums, r_sums, i, m), column_sums), None

    return jax.lax.scan(one_row_tile, (row_sums, column_sums), jnp.arange(row_tiles))[0]


def local_forward(plan: Plan, rows: Any, columns: Any, shared: Any) -> Sums:
    """All pairs on this device."""
    r, c = walk(plan, rows, columns, shared, *start(plan, rows, columns, shared))
    return Sums(r.lse(), c.lse(), r.sum, c.sum, plan.paired(rows, columns, shared))


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
    computed anew.

    What a row takes from all columns is summed in float32 and added to `d_rows` once, which may so be of the dtype of
    the rows; the others are sums over tiles.
    """
    (row_tiles, m), (column_tiles, n) = tiles(rows, plan.size), tiles(columns, plan.size)

    def one_row_tile(carry: Any, i: Array) -> tuple[Any, None]:
        d_rows, d_columns, d_shared = carry
        (r, r_side, d_r), r_new = take((rows, row, d_rows), i, m)

        def one_tile(carry: Any, j: Array) -> tuple[Any, None]:
            sum_r, d_columns, d_shared = carry
            (c, c_side, d_c), c_new = take((columns, column, d_columns), j, n)
            gradient = tile_gradient(masked(plan.tile, r_new, c_new), (r, c, shared), r_side, c_side)
            d_columns = put(d_columns, plus(d_c, gradient[1]), j, n)
            return (plus(sum_r, gradient[0]), d_columns, plus(d_shared, gradient[2])), None

        start = (no_gradient(r), d_columns, d_shared)
        (sum_r, d_columns, d_shared), _ = jax.lax.scan(one_tile, start, jnp.arange(column_tiles))
        return (put(d_rows, plus(d_r, sum_r), i, m), d_columns, d_shared), None

    return jax.lax.scan(one_row_tile, (d_rows, d_columns, d_shared), jnp.arange(row_tiles))[0]


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
    """A sum in the form of the first."""

    def add(t: Any, g: Array) -> Any:
        if not is_halves(t):
            return t + g.astype(t.dtype)
        # Computed once: were it fused into the update of either half, the other would be copied first, as a whole.
        return halves(jax.lax.optimization_barrier(whole(t) + g.astype(jnp.float32)))

    return jax.tree.map(add, total, gradient, is_leaf=is_halves)


def no_gradient(tree: Any) -> Any:
    """Zeros to sum gradients in: in float32 or better."""
    return jax.tree.map(lambda x: jnp.zeros_like(at_least_float32(x)) if is_float(x) else None, tree)


def paired_gradient(plan: Plan, rows: Any, columns: Any, shared: Any, cotangents: Sums) -> tuple[Any, Any, Any]:
    """The gradient of what is paired: that of the rows in their own dtype, the others in float32 or better."""
    floats, rebuild = split_floats((rows, columns, shared))
    _, pull = jax.vjp(lambda floats: plan.paired(*rebuild(floats)), floats)
    d_rows, d_columns, d_shared = pull(cotangents.paired)[0]
    return d_rows, *jax.tree.map(at_least_float32, (d_columns, d_shared))


def like(gradient: Any, tree: Any) -> Any:
    """Gradients in the dtype of what they are gradients of."""

    def cast(x: Array, g: Any) -> Array | None:
        return None if g is None else rounded(g, TILE) if is_halves(g) else g.astype(x.dtype)

    return jax.tree.map(cast, tree, gradient, is_leaf=lambda v: v is None)


def local_backward(
    plan: Plan, rows: Any, columns: Any, shared: Any, sums: Sums, cotangents: Sums
) -> tuple[Any, Any, Any]:
    """The gradient of all pairs on this device."""
    arguments = (rows, columns, shared)
    d_rows, d_columns, d_shared = paired_gradient(plan, *arguments, cotangents)

    def in_halves(x: Array) -> bool:
        return x.dtype == jnp.bfloat16 and 4 * x.size > HALVES_BYTES

    d_columns = jax.tree.map(lambda x, g: halves(g) if in_halves(x) else g, columns, d_columns)
    return like(walk_back(plan, *arguments, *sides(sums, cotangents), d_rows, d_columns, d_shared), arguments)


# Several devices, columns gathered: each device adds its rows to partial sums of all columns, which are then put
# together, each shard at its owner.


def gather(plan: Plan, tree: Any) -> Any:
    """All shards, in order."""
    return jax.tree.map(lambda x: jax.lax.all_gather(x, plan.axes, tiled=True), tree)


def scatter_sum(plan: Plan, tree: Any) -> Any:
    """Sums over devices, of which each keeps its shard."""
    return jax.tree.map(lambda x: jax.lax.psum_scatter(x, plan.axes, tiled=True), tree)


def gather_forward(plan: Plan, rows: Any, columns: Any, shared: Any) -> Sums:
    """All pairs of this device's rows; sums of this device's rows and columns."""
    everything = gather(plan, columns)
    r, c = walk(plan, rows, everything, shared, *start(plan, rows, everything, shared))
    tops = tuple(jax.lax.pmax(t, plan.axes) for t in c.top)
    masses = tuple(m * jnp.exp(mine - top) for m, mine, top in zip(c.mass, c.top, tops, strict=True))
    masses, added = scatter_sum(plan, (masses, c.sum))
    lse = tuple(own_shard(plan, t) + jnp.log(m) for t, m in zip(tops, masses, strict=True))
    return Sums(r.lse(), lse, r.sum, added, plan.paired(rows, columns, shared))


def own_shard(plan: Plan, x: Array) -> Array:
    """This device's rows of an array that all devices hold."""
    size = x.shape[0] // jax.lax.axis_size(plan.axes)
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(plan.axes) * size, size)


def gather_backward(
    plan: Plan, rows: Any, columns: Any, shared: Any, sums: Sums, cotangents: Sums
) -> tuple[Any, Any, Any]:
    """Gradients of this device's rows and columns, and of what is shared."""
    row, column = sides(sums, cotangents)
    everything, column = gather(plan, (columns, column))
    d_rows, own, d_shared = paired_gradient(plan, rows, columns, shared, cotangents)
    zeros = no_gradient(everything)
    d_rows, d_columns, d_shared = walk_back(plan, rows, everything, shared, row, column, d_rows, zeros, d_shared)
    d_columns = plus(scatter_sum(plan, d_columns), own)
    return like((d_rows, d_columns, jax.lax.psum(d_shared, plan.axes)), (rows, columns, shared))


# Several devices in a ring: shards of columns travel with their sums, and are home again after one round.


def pass_on(plan: Plan, tree: Any) -> Any:
    """Half of each shard to the next device of the ring, the other half to the one before, as in the bidirectional ring
    of SigLIP (Zhai et al. 2023): a link carries both ways at once, so a step takes half the time, and all halves are
    home again after one round."""
    n = jax.lax.axis_size(plan.axes)
    ahead = [(i, (i + 1) % n) for i in range(n)]
    back = [(j, i) for i, j in ahead]

    def both_ways(x: Array) -> Array:
        half = len(x) // 2
        return jnp.concatenate(
            [jax.lax.ppermute(part, plan.axes, to) for part, to in ((x[:half], ahead), (x[half:], back))]
        )

    return jax.tree.map(both_ways, tree)


def ring_forward(plan: Plan, rows: Any, columns: Any, shared: Any) -> Sums:
    """All pairs of this device's rows; sums of this device's rows and columns."""

    def visit(carry: Any, _: None) -> tuple[Any, None]:
        visited, r, c = carry
        following = pass_on(plan, visited)  # does not wait for the tiles, and so travels while they are computed
        r, c = walk(plan, rows, visited, shared, r, c)
        return (following, r, pass_on(plan, c)), None  # a few numbers for each column

    carry = (columns, *start(plan, rows, columns, shared))
    (_, r, c), _ = jax.lax.scan(visit, carry, length=jax.lax.axis_size(plan.axes))
    return Sums(r.lse(), c.lse(), r.sum, c.sum, plan.paired(rows, columns, shared))


def ring_backward(
    plan: Plan, rows: Any, columns: Any, shared: Any, sums: Sums, cotangents: Sums
) -> tuple[Any, Any, Any]:
    """Gradients of this device's rows and columns, and of what is shared.

    The gradient of a shard of columns, as large as they or twice as large, is one visit behind them: what the visits
    before have summed arrives while the tiles of this one are computed, whose part is then added. So one more step
    brings it home.
    """
    row, column = sides(sums, cotangents)
    d_rows, own, d_shared = paired_gradient(plan, rows, columns, shared, cotangents)
    zeros = no_gradient(columns)

    def visit(carry: Any, _: None) -> tuple[Any, None]:
        visited, side, d_rows, behind, d_shared = carry
        following, arrived = pass_on(plan, (visited, side)), pass_on(plan, behind)
        d_rows, d_visited, d_shared = walk_back(plan, rows, visited, shared, row, side, d_rows, zeros, d_shared)
        return (*following, d_rows, plus(arrived, d_visited), d_shared), None

    carry = (columns, column, plus(no_gradient(rows), d_rows), zeros, d_shared)
    (_, _, d_rows, behind, d_shared), _ = jax.lax.scan(visit, carry, length=jax.lax.axis_size(plan.axes))
    d_columns = plus(pass_on(plan, behind), own)
    return like((d_rows, d_columns, jax.lax.psum(d_shared, plan.axes)), (rows, columns, shared))


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
    x = scaled(za, zb, scale)
    return x if bias is None else x + bias.astype(x.dtype)


def dots(za: Float[Array, "m d"], zb: Float[Array, "n d"]) -> Float[Array, "m n"]:
    """The inner product of each row with each other."""
    return scaled(za, zb, jnp.ones((), at_least_float32(za).dtype))


@jax.custom_vjp
def scaled(za: Float[Array, "m d"], zb: Float[Array, "n d"], scale: Float[Array, ""]) -> Float[Array, "m n"]:
    """The inner product of each row with each other, times `scale`."""
    x = product("md,nd->mn", za, zb)
    return x * scale.astype(x.dtype)


def product(equation: str, x: Array, y: Array) -> Array:
    """A matrix product summed in float32 or better, free of reduced-precision passes for float32 inputs."""
    precision = None if x.dtype.itemsize < 4 else jax.lax.Precision.HIGHEST
    return jnp.einsum(equation, x, y, precision=precision, preferred_element_type=at_least_float32(x).dtype)


def _scaled_forward(za: Array, zb: Array, scale: Array) -> tuple[Array, Any]:
    x = product("md,nd->mn", za, zb)
    return x * scale.astype(x.dtype), (za, zb, scale, x if za.dtype.itemsize < 4 else None)


def _scaled_backward(residuals: Any, gradient: Array) -> tuple[Array, Array, Array]:
    za, zb, scale, x = residuals
    dtype = za.dtype
    if dtype == jnp.float16:
        za, zb = at_least_float32(za), at_least_float32(zb)
    # Without the barrier XLA computes the derivatives, exponentials and all, once for each of the two products.
    rounded = jax.lax.optimization_barrier(gradient.astype(za.dtype))
    d_za, d_zb = product("mn,nd->md", rounded, zb), product("mn,md->nd", rounded, za)
    # The derivative by the scale is a sum over pairs; of the rows' derivatives, where these are exact, a smaller one.
    d_scale = (za * d_za).sum() if x is None else (gradient * x).sum()
    s = scale.astype(d_za.dtype)
    return (s * d_za).astype(dtype), (s * d_zb).astype(dtype), d_scale.astype(scale.dtype)


scaled.defvjp(_scaled_forward, _scaled_backward)


def softplus_tile(za: Float[Array, "m d"], zb: Float[Array, "n d"], shared: Any) -> Any:
    """`log(1 + exp(logit))` of each pair, to be added; shared: scale and bias."""
    return (), (softplus(logits(za, zb, *shared)),)


@jax.custom_jvp
def softplus(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """`log(1 + exp(x))`, with the sigmoid as its derivative; that of `jax.nn.softplus` computes the value first."""
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


softplus.defjvps(lambda tangent, value, x: jax.nn.sigmoid(x) * tangent)


def paired_logits(za: Float[Array, "b d"], zb: Float[Array, "b d"], scale: Float[Array, ""]) -> Float[Array, "b"]:
    """The diagonal: logits of row i with row i."""
    return scale.astype(at_least_float32(za).dtype) * (at_least_float32(za) * at_least_float32(zb)).sum(-1)

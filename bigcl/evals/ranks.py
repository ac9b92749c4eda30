"""Ranks and nearest items among all: rows of queries over the devices, items in chunks, never the whole matrix of
scores."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float32, Int32, Int64

from bigcl.mesh import BATCH_AXES, replicated

CHUNK = 1024
"""Items that are scored at a time."""

ROWS = 2048
"""Rows that a device works on at a time: 8 MiB of scores."""

TIE = 1e-6
"""Cosines nearer than this are equal: float32 products of the same vectors differ by less, according to where in a tile
they were computed."""


def ranks(
    queries: Float32[np.ndarray, "q d"],
    items: Float32[np.ndarray, "n d"],
    query_ids: Int32[np.ndarray, "q"],
    item_ids: Int32[np.ndarray, "n"],
    mesh: Mesh,
    *,
    right: Int32[np.ndarray, "q p"] | None = None,
    hidden: Int32[np.ndarray, "q h"] | None = None,
) -> Int64[np.ndarray, "q"]:
    """For each query the place, from 1, of its best positive among the items by inner product.

    Embeddings are L2-normalised. Items of the query's id (>= 0) are positives, all others negatives. Ties, and scores
    that are not numbers, count against the query: a constant embedding ranks last. All processes hold the same arrays
    and get the same ranks.

    right: places of more positives, filled up with -1.  hidden: places of items that are not there for the query, be
        they positives or not.
    """
    rows = (queries, query_ids, listed(right, len(queries)), listed(hidden, len(queries)))
    return over_rows(count, rows, in_chunks(items, item_ids), mesh).astype(np.int64)


def first(
    queries: Float32[np.ndarray, "q d"],
    items: Float32[np.ndarray, "n d"],
    query_ids: Int32[np.ndarray, "q"],
    item_ids: Int32[np.ndarray, "n"],
    mesh: Mesh,
    *,
    k: int,
    right: Int32[np.ndarray, "q p"] | None = None,
    hidden: Int32[np.ndarray, "q h"] | None = None,
) -> tuple[Int32[np.ndarray, "q k"], Float32[np.ndarray, "q k"], Bool[np.ndarray, "q k"]]:
    """For each query the places of the k items of the largest inner products, these, and which are positives.

    Arguments as for `ranks`; a positive comes after the negatives that tie with it. k is cut to the number of items;
    where fewer are there for a query, the places of the others are -1.
    """
    k = min(k, len(items))
    right = listed(right, len(queries))
    rows = (queries, query_ids, right, listed(hidden, len(queries)))
    scores, places = over_rows(best_first, rows, in_chunks(items, item_ids), mesh, k)
    hit = (item_ids[places] == query_ids[:, None]) | (places[..., None] == right[:, None]).any(-1)
    there = scores > -np.inf
    return np.where(there, places, -1), scores, hit & there


def over_rows(function: Callable[..., Any], rows: Any, shared: Any, mesh: Mesh, *static: Any) -> Any:
    """`function(rows, shared, *static)` of all rows, a tile of them on each device at a time.

    rows: pytree of arrays [N, ...] that every process holds; so it does the result, arrays [N, ...] again.
    function: pure, row by row, and one object for all calls, which is compiled once for each `static`.
    """
    n = len(jax.tree.leaves(rows)[0])
    whole = jax.tree.map(lambda x: put(np.asarray(x), replicated(mesh)), shared)
    outputs = compiled(function, mesh, static)(in_tiles(rows, mesh), whole)
    return jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:])[:n], outputs)


def in_tiles(rows: Any, mesh: Mesh) -> Any:
    """Arrays [N, ...] that every process holds as [tiles, rows, ...], filled up with zeros, the rows over devices."""
    n = len(jax.tree.leaves(rows)[0])
    shards = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    tiles = max(1, -(-n // (ROWS * shards)))
    size = max(1, -(-n // (tiles * shards))) * shards
    where = NamedSharding(mesh, PartitionSpec(None, BATCH_AXES))
    return jax.tree.map(lambda x: put(pad(x, tiles * size).reshape(tiles, size, *x.shape[1:]), where), rows)


@functools.cache
def compiled(function: Callable[..., Any], mesh: Mesh, static: tuple[Any, ...]) -> Callable[..., Any]:
    """`function` over tiles, its result whole on every process."""
    return jax.jit(
        lambda rows, shared: jax.lax.map(lambda tile: function(tile, shared, *static), rows),
        out_shardings=replicated(mesh),
    )


def in_chunks(
    items: Float32[np.ndarray, "n d"], ids: Int32[np.ndarray, "n"]
) -> tuple[Float32[np.ndarray, "c m d"], Int32[np.ndarray, "c m"], Int32[np.ndarray, "c m"]]:
    """Items, ids and places in chunks; what fills the last has place -1."""
    chunks = -(-len(items) // CHUNK)
    size = -(-len(items) // chunks)
    places = pad(np.arange(len(items), dtype=np.int32), chunks * size, fill=-1).reshape(chunks, size)
    return pad(items, chunks * size).reshape(chunks, size, -1), pad(ids, chunks * size).reshape(chunks, size), places


def listed(places: np.ndarray | None, rows: int) -> Int32[np.ndarray, "q p"]:
    """Places of items, none where there are none."""
    return np.zeros((rows, 0), np.int32) if places is None else np.asarray(places, np.int32)


def even(lists: Sequence[Sequence[int]]) -> Int32[np.ndarray, "q p"]:
    """Lists of places of any lengths as one array, filled up with -1."""
    width = max(map(len, lists), default=0)
    return np.array([[*places, *[-1] * (width - len(places))] for places in lists], np.int32).reshape(len(lists), width)


def marked(places: Int32[Array, "q p"], start: Int32[Array, ""], size: int) -> Bool[Array, "q m"]:
    """Which items of a chunk are listed."""
    column = jnp.where(places < start, size, places - start)  # out of bounds, -1 too, marks nothing
    return jax.vmap(lambda row, at: row.at[at].set(True, mode="drop"))(jnp.zeros((len(places), size), bool), column)


Rows = tuple[Float32[Array, "q d"], Int32[Array, "q"], Int32[Array, "q p"], Int32[Array, "q h"]]
Chunk = tuple[Float32[Array, "m d"], Int32[Array, "m"], Int32[Array, "m"]]


def compare(rows: Rows, chunk: Chunk) -> tuple[Float32[Array, "q m"], Bool[Array, "q m"], Bool[Array, "q m"]]:
    """Scores of queries with a chunk of items, which of them are positives, which are negatives."""
    queries, ids, right, hidden = rows
    items, item_ids, places = chunk
    there = (places >= 0)[None] & ~marked(hidden, places[0], len(places))
    positive = (ids[:, None] == item_ids[None]) | marked(right, places[0], len(places))
    score = jnp.einsum("qd,nd->qn", queries, items, precision=jax.lax.Precision.HIGHEST)
    return score, positive & there, ~positive & there


def count(rows: Rows, chunks: Any) -> Int32[Array, "q"]:
    """One more than the negatives that score no less than the best positive."""

    def best(top, chunk):
        score, positive, _ = compare(rows, chunk)
        return jnp.maximum(top, jnp.where(positive, score, -jnp.inf).max(1)), None

    def above(total, chunk):
        score, _, negative = compare(rows, chunk)
        better = ~(score < top[:, None] - TIE)  # not >=, which is false for what is not a number
        return total + (negative & better).sum(1, dtype=jnp.int32), None

    top, _ = jax.lax.scan(best, jnp.full(len(rows[0]), -jnp.inf), chunks)
    return jax.lax.scan(above, jnp.ones(len(rows[0]), jnp.int32), chunks)[0]


def best_first(rows: Rows, chunks: Any, k: int) -> tuple[Float32[Array, "q k"], Int32[Array, "q k"]]:
    """The k largest scores and their places."""

    def step(best, chunk):
        score, positive, negative = compare(rows, chunk)
        behind = jnp.where(jnp.isnan(score), -jnp.inf, score - TIE)  # a positive that ties comes after
        ahead = jnp.where(jnp.isnan(score), jnp.inf, score)
        score = jnp.where(positive, behind, jnp.where(negative, ahead, -jnp.inf))
        places = jnp.broadcast_to(chunk[2], score.shape)
        scores, chosen = jax.lax.top_k(jnp.concatenate([best[0], score], 1), k)
        return (scores, jnp.take_along_axis(jnp.concatenate([best[1], places], 1), chosen, 1)), None

    none = (jnp.full((len(rows[0]), k), -jnp.inf), jnp.full((len(rows[0]), k), -1, jnp.int32))
    return jax.lax.scan(step, none, chunks)[0]


def pad(x: np.ndarray, rows: int, fill: int = 0) -> np.ndarray:
    """`x` with rows added at the end."""
    return x if rows == len(x) else np.pad(x, [(0, rows - len(x)), *[(0, 0)] * (x.ndim - 1)], constant_values=fill)


def put(x: np.ndarray, sharding: jax.sharding.Sharding) -> Array:
    """An array that every process holds, on the devices."""
    return jax.make_array_from_callback(x.shape, sharding, x.__getitem__)

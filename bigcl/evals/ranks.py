"""Ranks of the right items among all: queries over the devices, items in chunks, never the whole matrix of scores."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float32, Int32, Int64

from bigcl.mesh import BATCH_AXES, batch_sharding, replicated

CHUNK = 1024
"""Items that are scored at a time."""

TIE = 1e-6
"""Cosines nearer than this are equal: float32 products of the same vectors differ by less, according to where in a tile
they were computed."""


def ranks(
    queries: Float32[np.ndarray, "q d"],
    items: Float32[np.ndarray, "n d"],
    query_ids: Int32[np.ndarray, "q"],
    item_ids: Int32[np.ndarray, "n"],
    mesh: Mesh,
) -> Int64[np.ndarray, "q"]:
    """For each query the place, from 1, of its best positive among the items by inner product.

    Embeddings are L2-normalised. Items of the query's id (>= 0) are positives, all others negatives. Ties, and scores
    that are not numbers, count against the query: a constant embedding ranks last. All processes hold the same arrays
    and get the same ranks.
    """
    chunks = -(-len(items) // CHUNK)
    size = -(-len(items) // chunks)
    columns, column_ids = pad(items, chunks * size), pad(item_ids, chunks * size, fill=-1)
    shards = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    rows = -(-len(queries) // shards) * shards
    inputs = [
        *(put(x, batch_sharding(mesh)) for x in (pad(queries, rows), pad(query_ids, rows))),
        *(put(x.reshape(chunks, size, *x.shape[1:]), replicated(mesh)) for x in (columns, column_ids)),
    ]
    return np.asarray(compiled(mesh)(*inputs))[: len(queries)].astype(np.int64)


@functools.cache
def compiled(mesh: Mesh) -> Callable[..., Array]:
    """`count` over a mesh, its result whole on every process."""
    return jax.jit(count, out_shardings=replicated(mesh))


def count(
    queries: Float32[Array, "q d"],
    ids: Int32[Array, "q"],
    items: Float32[Array, "c n d"],
    item_ids: Int32[Array, "c n"],
) -> Int32[Array, "q"]:
    """One more than the negatives that score no less than the best positive; items of id -1 are not there."""

    def score(chunk: Float32[Array, "n d"]) -> Float32[Array, "q n"]:
        return jnp.einsum("qd,nd->qn", queries, chunk, precision=jax.lax.Precision.HIGHEST)

    def best(top, chunk):
        positive = ids[:, None] == chunk[1][None]
        return jnp.maximum(top, jnp.where(positive, score(chunk[0]), -jnp.inf).max(1)), None

    def above(total, chunk):
        negative = (ids[:, None] != chunk[1][None]) & (chunk[1] >= 0)[None]
        better = ~(score(chunk[0]) < top[:, None] - TIE)  # not >=, which is false for what is not a number
        return total + (negative & better).sum(1, dtype=jnp.int32), None

    chunks = (items, item_ids)
    top, _ = jax.lax.scan(best, jnp.full(len(queries), -jnp.inf), chunks)
    return jax.lax.scan(above, jnp.ones(len(queries), jnp.int32), chunks)[0]


def pad(x: np.ndarray, rows: int, fill: int = 0) -> np.ndarray:
    """`x` with rows added at the end."""
    return np.pad(x, [(0, rows - len(x)), *[(0, 0)] * (x.ndim - 1)], constant_values=fill)


def put(x: np.ndarray, sharding: jax.sharding.Sharding) -> Array:
    """An array that every process holds, on the devices."""
    return jax.make_array_from_callback(x.shape, sharding, x.__getitem__)

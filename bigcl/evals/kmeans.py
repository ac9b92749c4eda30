"""k-means, with the sums over examples on the devices."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Key

from bigcl.evals.ranks import in_tiles, put
from bigcl.mesh import replicated

HIGHEST = jax.lax.Precision.HIGHEST


def kmeans(
    x: Float[np.ndarray, "n d"],
    clusters: int,
    mesh: Mesh,
    *,
    starts: int = 10,
    seed: int = 0,
    iterations: int = 300,
    tolerance: float = 1e-4,
) -> Int[np.ndarray, "n"]:
    """The cluster of each example in the best of some runs of Lloyd's algorithm (1982) from the starts of k-means++
    (Arthur and Vassilvitskii 2007).

    tolerance: a run ends when the centres move, in squares, by less than this share of the mean variance of a
        component, or after so many `iterations`. A centre that loses all its examples stays where it is.
    """
    rows, valid = in_tiles((np.asarray(x, np.float32), np.ones(len(x), bool)), mesh)
    least = np.float32(tolerance * np.var(x, axis=0, dtype=np.float64).mean())
    found = []
    for key in jax.random.split(jax.random.key(seed), starts):
        key = put(np.asarray(jax.random.key_data(key)), replicated(mesh))
        labels, inertia = fit(mesh, clusters, iterations)(rows, valid, key, least)
        found.append((float(inertia), np.asarray(labels).ravel()[: len(x)]))
    enough = (1 + 1e-5) * min(inertia for inertia, _ in found)  # of equals the first, however sums are rounded
    return next(labels for inertia, labels in found if inertia <= enough)


@functools.cache
def fit(mesh: Mesh, clusters: int, iterations: int) -> Any:
    """One run, compiled: labels [tiles, rows] and the sum of squared distances."""

    def run(x: Float[Array, "t m d"], valid: Bool[Array, "t m"], key: Array, least: Float[Array, ""]) -> Any:
        def step(carry: Any) -> Any:
            centres, _, i = carry
            _, _, (sums, counts) = assign(x, valid, centres)
            new = jnp.where(counts[:, None] > 0, sums / jnp.maximum(counts, 1)[:, None], centres)
            return new, jnp.square(new - centres).sum(), i + 1

        start = (plus_plus(x, valid, jax.random.wrap_key_data(key), clusters), jnp.asarray(jnp.inf), 0)
        going = lambda carry: (carry[1] > least) & (carry[2] < iterations)  # noqa: E731
        centres = jax.lax.while_loop(going, step, start)[0]
        labels, inertia, _ = assign(x, valid, centres)
        return labels, inertia

    return jax.jit(run, out_shardings=replicated(mesh))


def plus_plus(
    x: Float[Array, "t m d"], valid: Bool[Array, "t m"], key: Key[Array, ""], clusters: int
) -> Float[Array, "k d"]:
    """Examples drawn one after the other, each with a probability that goes with its squared distance from those that
    are drawn already; by the largest of Gumbel's noise plus logarithm, which needs no sum over devices."""

    def draw(weight: Float[Array, "t m"], key: Key[Array, ""]) -> tuple[Float[Array, "t m"], Float[Array, "d"]]:
        noise = jax.random.gumbel(key, (weight.size,)).reshape(weight.shape)  # of a row, whatever the tiles
        place = jnp.unravel_index(jnp.argmax(jnp.log(weight) + noise), weight.shape)
        return jnp.minimum(weight, jnp.square(x - x[place][None, None]).sum(-1)), x[place]

    far = jnp.where(valid, 1e30, 0).astype(x.dtype)
    return jax.lax.scan(draw, far, jax.random.split(key, clusters))[1]


def assign(
    x: Float[Array, "t m d"], valid: Bool[Array, "t m"], centres: Float[Array, "k d"]
) -> tuple[Int[Array, "t m"], Float[Array, ""], tuple[Float[Array, "k d"], Float[Array, "k"]]]:
    """The nearest centre of each example, the sum of the squared distances, and sums and numbers of each cluster."""

    def tile(total: Any, rows: Any) -> tuple[Any, Int[Array, "m"]]:
        (sums, counts, inertia), (x, valid) = total, rows
        cosine = jnp.matmul(x, centres.T, precision=HIGHEST)
        distance = jnp.square(x).sum(1)[:, None] - 2 * cosine + jnp.square(centres).sum(1)[None]
        label = distance.argmin(1)
        member = ((label[:, None] == jnp.arange(len(centres))[None]) & valid[:, None]).astype(x.dtype)
        inertia += (member * jnp.maximum(distance, 0)).sum()
        return (sums + jnp.matmul(member.T, x, precision=HIGHEST), counts + member.sum(0), inertia), label

    nothing = (jnp.zeros_like(centres), jnp.zeros_like(centres[:, 0]), jnp.zeros((), x.dtype))
    (sums, counts, inertia), labels = jax.lax.scan(tile, nothing, (x, valid))
    return labels, inertia, (sums, counts)

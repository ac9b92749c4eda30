"""Contrast of whole tuples by the multilinear inner product, for any number of modalities."""

import functools
import itertools
import operator
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from bigcl.losses import streaming
from bigcl.losses.similarity import at_least_float32


def multilinear(
    *z: Float[Array, "b d"],
    scale: Float[Array, ""],
    negatives: Literal["shuffled", "all"] = "shuffled",
    permutations: Int[Array, "m k b"] | None = None,
    rng: Key[Array, ""] | None = None,
) -> Float[Array, ""]:
    r"""Symile (Saporta et al. 2024), which finds what no pair of modalities holds.

    Each modality is the anchor in turn, and the candidates of its rows are tuples of the others. With the multilinear
    inner product $\langle x, y, \dots \rangle = \sum_d x_d y_d \cdots$ and M modalities

    $$L = \tfrac{1}{M} \sum_a \tfrac{1}{B} \sum_i \Big[ \log\sum_j e^{l^a_{ij}} - l^a_{ii} \Big], \quad
    l^a_{ii} = s \langle z^1_i, \dots, z^M_i \rangle, \quad
    l^a_{ij} = s \Big\langle z^a_i, \prod_{k \ne a} z^k_{\pi_{ak}(j)} \Big\rangle.$$

    The rows are the anchor's alone. A shuffled tuple that happens to be a true one counts as a negative.

    z: embeddings of two modalities or more, L2-normalised; rows i of all of them belong together.
    scale: s, the inverse temperature.
    negatives: "shuffled": B - 1 for each row.  "all": every other combination of rows, B^(M-1) - 1 for each row, which
        are made tile by tile. Of two modalities that is symmetric InfoNCE.
    permutations: for "shuffled", how to order the rows of the k-th other modality when `a` is the anchor,
        [M, M - 1, B]; None: drawn by `draw_permutations(rng, M, B)`.

    >>> z = jnp.eye(4)
    >>> round(float(multilinear(z, z, scale=jnp.array(1.0), negatives="all")), 4)
    0.7437
    """
    if len(z) < 2:
        raise ValueError(f"multilinear: a tuple has two modalities or more, got {len(z)}")
    z = tuple(map(at_least_float32, z))
    positive = scale.astype(z[0].dtype) * product(z).sum(-1)
    if negatives == "all":
        return sum_of_anchors([all_tuples(a, others, scale) - positive for a, others in anchors(z)])
    if permutations is None:
        if rng is None:
            raise ValueError("multilinear: shuffled negatives need `permutations`, or `rng` to draw them")
        permutations = draw_permutations(rng, len(z), len(z[0]))
    if permutations.shape[:2] != (len(z), len(z) - 1):
        raise ValueError(
            f"multilinear: permutations of {len(z)} modalities are [{len(z)}, {len(z) - 1}, B], "
            f"got {permutations.shape}"
        )
    terms = []
    for (a, others), order in zip(anchors(z), permutations, strict=True):
        shuffled = product([x[rows] for x, rows in zip(others, order, strict=True)])
        terms.append(shuffled_tuples(a, shuffled, positive, scale) - positive)
    return sum_of_anchors(terms)


def draw_permutations(rng: Key[Array, ""], modalities: int, batch: int) -> Int[Array, "m k b"]:
    """An order of the rows for each anchor and each other modality, [M, M - 1, B], drawn independently."""
    keys = jax.random.split(rng, (modalities * (modalities - 1),))
    orders = jax.vmap(lambda key: jax.random.permutation(key, batch))(keys)
    return orders.reshape(modalities, modalities - 1, batch)


def multilinear_scores(*queries: Float[Array, "b d"], candidates: Float[Array, "c d"]) -> Float[Array, "b c"]:
    """The multilinear inner product of the rows of all queries with each candidate: retrieval of one modality from the
    others."""
    return streaming.dots(product(tuple(map(at_least_float32, queries))), at_least_float32(candidates))


def pairwise_scores(*queries: Float[Array, "b d"], candidates: Float[Array, "c d"]) -> Float[Array, "b c"]:
    """The sum of the inner products of all pairs in the tuple of the queries and a candidate: retrieval of one modality
    from the others by embeddings that were contrasted in pairs."""
    queries = tuple(map(at_least_float32, queries))
    scores = streaming.dots(added(queries), at_least_float32(candidates))
    among = [product(pair).sum(-1) for pair in itertools.combinations(queries, 2)]
    return scores + added(among)[:, None] if among else scores


def product(z: Sequence[Float[Array, "*b d"]]) -> Float[Array, "*b d"]:
    """Elementwise, of all."""
    return functools.reduce(operator.mul, z)


def added(terms: Sequence[Float[Array, "*n"]]) -> Float[Array, "*n"]:
    """Elementwise, of all."""
    return functools.reduce(operator.add, terms)


def sum_of_anchors(terms: Sequence[Float[Array, "b"]]) -> Float[Array, ""]:
    """The mean over anchors and rows."""
    return added(terms).mean() / len(terms)


def anchors(z: Sequence[Array]) -> list[tuple[Array, tuple[Array, ...]]]:
    """Each modality with all others, in order."""
    return [(x, (*z[:i], *z[i + 1 :])) for i, x in enumerate(z)]


def shuffled_tuples(
    a: Float[Array, "b d"], shuffled: Float[Array, "b d"], positive: Float[Array, "b"], scale: Float[Array, ""]
) -> Float[Array, "b"]:
    """The log-sum-exp of each row over the shuffled tuples, with its true tuple in place of the one on the diagonal."""
    index = jnp.arange(len(a))

    def tile(rows, columns, scale):
        (x, own, i), (y, j) = rows, columns
        return (jnp.where(i[:, None] == j[None], own[:, None], streaming.logits(x, y, scale)),), ()

    return streaming.stream(tile, (a, positive, index), (shuffled, index), scale).row_lse[0]


def all_tuples(
    a: Float[Array, "b d"], others: tuple[Float[Array, "b d"], ...], scale: Float[Array, ""]
) -> Float[Array, "b"]:
    """The log-sum-exp of each row over all combinations of the rows of the others. A column is the number of a
    combination, and only a tile of their products is held at a time."""
    b = len(a)

    def tile(x, columns, shared):
        others, scale = shared
        digits = [columns // b**k % b for k in range(len(others))]
        return (streaming.logits(x, product([z[i] for z, i in zip(others, digits, strict=True)]), scale),), ()

    return streaming.stream(tile, a, jnp.arange(b ** len(others)), (others, scale)).row_lse[0]

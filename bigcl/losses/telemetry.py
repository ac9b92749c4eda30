"""What a contrastive loss does to its batch, for the log; from the embeddings, without a matrix of all pairs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bigcl.losses.infonce import infonce, infonce_rows
from bigcl.losses.sigmoid import sigmoid, sigmoid_rows
from bigcl.losses.similarity import at_least_float32
from bigcl.losses.streaming import MASKED, logits, stream

TIE = 1e-6

ROWS: dict[Callable[..., Any], Callable[..., Float[Array, "b"]]] = {infonce: infonce_rows, sigmoid: sigmoid_rows}
"""Losses that are means over rows, and the functions of the same arguments that give the terms [b]."""


def pair_statistics(
    za: Float[Array, "b d"], zb: Float[Array, "b d"], scale: Float[Array, ""]
) -> dict[str, Float[Array, ""]]:
    """Scalars of a batch of pairs, row i of one side belonging to row i of the other; L2-normalised, B of 2 or more.

    scale: the inverse temperature.

    positive_similarity: mean cosine of the pairs.  negative_similarity: mean cosine of all other combinations.
    alignment: mean squared distance of the pairs (Wang and Isola 2020).
    accuracy: the share of rows of both sides whose own partner is nearest; ties are wrong.
    effective_negatives: how many negatives the softmax of a row is spread over, `1 / sum_j p_j^2` with `p` the softmax
        over the negatives (Kish 1965), a mean over the rows of both sides; from 1, one hard negative, to B - 1.

    One pass over the tiles of B x B pairs, as much as the forward pass of the loss; no gradient.
    """
    za, zb = (jax.lax.stop_gradient(at_least_float32(z)) for z in (za, zb))
    scale = jax.lax.stop_gradient(scale).astype(za.dtype)
    b, positive = len(za), (za * zb).sum(-1)
    index = jnp.arange(b)

    def tile(rows, columns, shared):
        (a, i, p), (c, j, q) = rows, columns
        cosine, same = logits(a, c, jnp.ones((), a.dtype)), i[:, None] == j[None]
        negative = jnp.where(same, MASKED, shared * cosine)
        # Not >=, which is false for what is not a number.
        above = (~same & ~(cosine < p[:, None] - TIE)).astype(cosine.dtype)
        beside = (~same & ~(cosine < q[None] - TIE)).astype(cosine.dtype)
        return (negative, jnp.where(same, MASKED, 2 * negative)), (above, beside)

    sums = stream(tile, (za, index, positive), (zb, index, positive), scale)
    right = (sums.row_sum[0] == 0).astype(za.dtype).mean() + (sums.column_sum[1] == 0).astype(za.dtype).mean()
    spread = [jnp.exp(2 * lse[0] - lse[1]).mean() for lse in (sums.row_lse, sums.column_lse)]
    total = jnp.dot(za.sum(0), zb.sum(0), precision=jax.lax.Precision.HIGHEST)
    return {
        "positive_similarity": positive.mean(),
        "negative_similarity": (total - positive.sum()) / (b * (b - 1.0)),
        "alignment": jnp.square(za - zb).sum(-1).mean(),
        "accuracy": right / 2,
        "effective_negatives": (spread[0] + spread[1]) / 2,
    }

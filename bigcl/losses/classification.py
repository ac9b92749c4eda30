"""Cross-entropy with a fixed set of classes or answers."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from bigcl.losses.similarity import at_least_float32


def classification(
    logits: Float[Array, "b c"],
    *,
    labels: Int[Array, "b"],
    permutation: Int[Array, "b"] | None = None,
    coefficients: Float[Array, "b"] | None = None,
) -> Float[Array, ""]:
    """Cross-entropy, the mean over the batch.

    labels: the right class of each row.
    permutation, coefficients: of rows that are mixtures, the row of the other part, and the share of their own, which
        weigh the two classes (mixup, Zhang et al. 2018, eq. 1).
    """
    x = at_least_float32(logits)
    own = optax.softmax_cross_entropy_with_integer_labels(x, labels)
    if permutation is None or coefficients is None:
        return own.mean()
    share = coefficients.astype(x.dtype)
    other = optax.softmax_cross_entropy_with_integer_labels(x, labels[permutation])
    return (share * own + (1 - share) * other).mean()


def consensus(logits: Float[Array, "b v"], *, counts: Int[Array, "b v"] | Float[Array, "b v"]) -> Float[Array, ""]:
    r"""Cross-entropy with answers that several people gave (Just Ask, Yang et al. 2021, for iVQA).

    An answer that two or more gave is right, one that a single person gave is half right,
    $c_{bv} = \min(n_{bv} / 2, 1)$, and

    $$L = -\tfrac{1}{B} \sum_b \sum_v \frac{c_{bv}}{\max(\sum_u c_{bu}, 1)} \log\mathrm{softmax}(x_b)_v.$$

    logits: x, over the vocabulary of answers.  counts: n, how many people gave each.
    """
    x = at_least_float32(logits)
    credit = jnp.minimum(counts.astype(x.dtype) / 2, 1)
    target = credit / jnp.maximum(credit.sum(-1, keepdims=True), 1)
    return -(target * jax.nn.log_softmax(x)).sum(-1).mean()

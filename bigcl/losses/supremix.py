"""Contrast by a scalar label, with mixtures of the batch's own embeddings as further negatives and positives."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from bigcl.losses import streaming
from bigcl.losses.similarity import at_least_float32

CUBE = 2**22
"""Mixtures that a tile computes at once: 16 MiB of float32."""


def supremix(
    *z: Float[Array, "b d"],
    scale: Float[Array, ""],
    labels: Float[Array, "b"] | Int[Array, "b"],
    coefficients: Float[Array, "n n"] | None = None,
    rng: Key[Array, ""] | None = None,
    window: float = 5.0,
    weighted: bool = True,
    mix_negatives: bool = True,
    mix_positives: bool = True,
    shared_shift: bool = True,
) -> Float[Array, ""]:
    r"""Supervised contrastive regression with mixtures (SupReMix, Wu et al. 2023).

    The views are stacked to n rows f with labels y. To row i belong, besides the other rows,

    - negatives $\lambda_{ik} f_i + (1 - \lambda_{ik}) f_k$ for each k with $y_k \ne y_i$, their labels mixed likewise;
    - positives $a f_j + (1 - a) f_k$, $a = (y_k - y_i) / (y_k - y_j)$, for all $y_j < y_i < y_k$ that are both nearer
      to $y_i$ than the window: their mixed label is $y_i$.

    Mixtures are constants for the gradient, and not normalised. With the positives P_i, rows of the same label and
    mixed ones,

    $$L = -\tfrac{1}{n} \sum_i \tfrac{1}{|P_i|} \sum_{p \in P_i}
    \log \frac{e^{s f_i \cdot p}}{\sum_c (|y_i - y_c| + 1)\, e^{s f_i \cdot c}}$$

    where c runs over all other rows and all mixtures of i. No mixture is ever made: its product with f_i is a mean of
    two entries of the Gram matrix. That is held, n x n as the coefficients are, sharded by rows; the mixed positives,
    up to n^2 for each row, are streamed.

    z: embeddings of one view or more, L2-normalised.  scale: s, the inverse temperature.
    labels: y, of each example; the views share it.  window: in units of the label.
    coefficients: lambda, for anchor i and negative k; None: drawn by `draw_coefficients(rng, n)`.
    weighted: False leaves out the weights $|y_i - y_c| + 1$.
    mix_negatives, mix_positives: False leaves out the mixtures of that kind.
    shared_shift: False is the authors' code, which subtracts from the logits of rows the largest of them, from those
        of mixtures another maximum, and then takes one sum: the mixtures of row i weigh more or less by a constant.
    """
    f = jnp.concatenate([at_least_float32(x) for x in z])
    y = jnp.tile(labels, len(z)).astype(f.dtype)
    if coefficients is None:
        if rng is None:
            raise ValueError("supremix: needs `coefficients`, or `rng` to draw them")
        coefficients = draw_coefficients(rng, len(f))
    share, distance = coefficients.astype(f.dtype), jnp.abs(y[:, None] - y[None])
    own, same = jnp.eye(len(f), dtype=bool), distance == 0
    log_weight = jnp.log1p if weighted else jnp.zeros_like

    logits = streaming.logits(f, f, scale)
    mixable = streaming.logits(f, jax.lax.stop_gradient(f), scale)
    negative = share * jnp.diagonal(mixable)[:, None] + (1 - share) * mixable
    shift = jnp.zeros_like(y)
    if not shared_shift:
        logits = logits - jax.lax.stop_gradient(logits.max(1, keepdims=True))
        largest = [jnp.where(same, 0, negative).max(1)] if mix_negatives else []
        largest += [largest_positive(mixable, y, window)] if mix_positives else []
        shift = jax.lax.stop_gradient(jnp.max(jnp.stack([shift, *largest]), 0))

    lse = jax.nn.logsumexp(jnp.where(own, streaming.MASKED, logits + log_weight(distance)), 1)
    target = jnp.where(same & ~own, logits, 0).sum(1)
    if mix_negatives:
        weighed = negative + log_weight((1 - share) * distance)
        lse = jnp.logaddexp(lse, jax.nn.logsumexp(jnp.where(same, streaming.MASKED, weighed), 1) - shift)
    positives, _ = contrast_counts(y, window=window, mix_positives=mix_positives)
    if mix_positives:
        mixed_lse, mixed_sum = mixed_positives(f, mixable, y, scale, window)
        lse = jnp.logaddexp(lse, mixed_lse - shift)
        target = target + mixed_sum - (positives - (same & ~own).sum(1).astype(y.dtype)) * shift
    return (jnp.where(positives > 0, lse, 0) - target / jnp.maximum(positives, 1)).mean()


def draw_coefficients(rng: Key[Array, ""], rows: int) -> Float[Array, "n n"]:
    """Shares of the anchor in mixed negatives, from Beta(2, 8): a mixture is nearer to the negative."""
    return jax.random.beta(rng, 2.0, 8.0, (rows, rows), jnp.float32)


def contrast_counts(
    labels: Float[Array, "n"], *, window: float = 5.0, mix_negatives: bool = True, mix_positives: bool = True
) -> tuple[Float[Array, "n"], Float[Array, "n"]]:
    """How many positives and how many negatives each row has, mixtures included. labels: of all rows."""
    same = (labels[:, None] == labels[None]).sum(1).astype(labels.dtype)
    below, above = (side.sum(1).astype(labels.dtype) for side in beside(labels, labels, window))
    negatives = (len(labels) - same) * (2 if mix_negatives else 1)
    return same - 1 + (below * above if mix_positives else 0), negatives


def beside(
    y: Float[Array, "m"], others: Float[Array, "n"], window: float
) -> tuple[Bool[Array, "m n"], Bool[Array, "m n"]]:
    """Which of the other labels lie below, and which above, and inside the window."""
    difference = others[None] - y[:, None]
    return (difference < 0) & (difference > -window), (difference > 0) & (difference < window)


def mixture_logits(
    first: Float[Array, "m j"],
    second: Float[Array, "m n"],
    y: Float[Array, "m"],
    y_first: Float[Array, "j"],
    y_second: Float[Array, "n"],
    window: float,
) -> tuple[Float[Array, "m j n"], Bool[Array, "m j n"]]:
    """Logits of the anchors' mixtures of a row with a smaller label and one with a larger, and which of them exist.

    first, second: logits of the anchors with the rows that are mixed.
    """
    below, above = beside(y, y_first, window)[0], beside(y, y_second, window)[1]
    exists = below[:, :, None] & above[:, None]
    gap = jnp.where(exists, y_second[None, None] - y_first[None, :, None], 1)
    share = (y_second[None] - y[:, None])[:, None] / gap
    return share * first[:, :, None] + (1 - share) * second[:, None], exists


def mixed_positives(
    f: Float[Array, "n d"], mixable: Float[Array, "n n"], y: Float[Array, "n"], scale: Float[Array, ""], window: float
) -> tuple[Float[Array, "n"], Float[Array, "n"]]:
    """For each row the log-sum-exp and the sum of the logits of its mixed positives.

    A tile is [rows, rows with a smaller label], each entry of which stands for the mixtures with all larger ones.
    """

    def tile(rows, columns, shared):
        (x, second, y), (c, y_first), (scale, y_all) = rows, columns, shared
        mixed, exists = mixture_logits(streaming.logits(x, c, scale), second, y, y_first, y_all, window)
        lse = jax.nn.logsumexp(jnp.where(exists, mixed, streaming.MASKED), -1)
        return (lse,), (jnp.where(exists, mixed, 0).sum(-1),)

    size = max(1, math.isqrt(CUBE // len(f)))
    sums = streaming.stream(tile, (f, mixable, y), (jax.lax.stop_gradient(f), y), (scale, y), size=size)
    return sums.row_lse[0], sums.row_sum[0]


def largest_positive(mixable: Float[Array, "n n"], y: Float[Array, "n"], window: float) -> Float[Array, "n"]:
    """For each row the largest logit of its mixed positives, or 0 where that is larger."""

    def step(largest, column):
        first, y_first = column
        mixed, exists = mixture_logits(first[:, None], mixable, y, y_first[None], y, window)
        return jnp.maximum(largest, jnp.where(exists, mixed, 0).max((1, 2))), None

    columns = jax.lax.stop_gradient((mixable.T, y))
    return jax.lax.scan(step, jnp.zeros_like(y), columns)[0]

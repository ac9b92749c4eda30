"""Pairwise sigmoid loss over the global batch."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bigcl.losses import streaming
from bigcl.losses.infonce import Known, belonging, by_side, in_reach, weighted_mean


def sigmoid(
    za: Float[Array, "b d"],
    zb: Float[Array, "b d"],
    scale: Float[Array, ""],
    bias: Float[Array, ""],
    *,
    labels: Int[Array, "b"] | None = None,
    targets: Float[Array, "b b"] | Bool[Array, "b b"] | None = None,
    groups: Int[Array, "b"] | None = None,
    mask: Bool[Array, "b"] | None = None,
    weight: Float[Array, "b"] | None = None,
    negatives_a: Float[Array, "ka d"] | Float[Array, "b ka d"] | None = None,
    negatives_b: Float[Array, "kb d"] | Float[Array, "b kb d"] | None = None,
) -> Float[Array, ""]:
    r"""Sigmoid loss for language-image pre-training (SigLIP, Zhai et al. 2023, equation 1), and what is made of it by
    other pairs and other targets.

    Every pair is a binary decision, $z_{ij} = 1$ on the diagonal and $-1$ elsewhere; the sum over all pairs is divided
    by B, not by B squared:

    $$L = -\tfrac{1}{B} \sum_{ij} \log \sigma\big(z_{ij} (s\,a_i \cdot b_j + t)\big)
    = \tfrac{1}{B} \Big[\sum_{ij} \log(1 + e^{l_{ij}}) - \sum_i l_{ii}\Big].$$

    za, zb: embeddings of the two sides, L2-normalised; row i of one belongs to row i of the other.
    scale: s, the inverse temperature.  bias: t, which starts near -log(B) so that the many negatives do not dominate.

    labels: $z_{ij} = 1$ for rows of the same label (UniCL's targets, Yang et al. 2022).
    targets: instead, the share of 0 to 1 to which row j of `zb` belongs to row i of `za`; the loss is the cross-entropy
        with it.
    groups: only pairs of the same group.
    mask: rows that are there; the others are in no pair and not counted.
    weight: $v$; the loss is the mean of the rows' terms by weight, and a pair of two rows is half in the term of each.
    negatives_b: more that rows of `za` do not belong to: all of them [k, d] (a queue; hard negatives), or each its own
        [b, k, d].  negatives_a: more for rows of `zb`.
    """
    if za.shape != zb.shape:
        raise ValueError(f"sigmoid: row i of each side must belong together, got shapes {za.shape} and {zb.shape}")
    if labels is not None and targets is not None:
        raise ValueError("sigmoid: labels and targets both say what belongs together; give one of them")
    given = {
        "labels": labels,
        "targets": targets,
        "groups": groups,
        "mask": mask,
        "negatives_a": negatives_a,
        "negatives_b": negatives_b,
    }
    arrays: dict[str, Any] = {name: x for name, x in given.items() if x is not None}
    if not arrays and weight is None:  # each pair in one sum is as good as half of it in two
        rows, _, positive = with_positives(za, zb, scale, bias)
        return (rows.sum() - positive.sum()) / len(za)
    return weighted_mean(sigmoid_rows(za, zb, scale, bias, **arrays), mask, weight)


def sigmoid_rows(
    za: Float[Array, "b d"],
    zb: Float[Array, "b d"],
    scale: Float[Array, ""],
    bias: Float[Array, ""],
    *,
    negatives_a: Float[Array, "ka d"] | Float[Array, "b ka d"] | None = None,
    negatives_b: Float[Array, "kb d"] | Float[Array, "b kb d"] | None = None,
    **known: Array,
) -> Float[Array, "b"]:
    """Terms whose mean `sigmoid` is, one for each row: its own pair, and half of each other that it is in. known: the
    other arrays of `sigmoid`, but for `weight`."""
    rows, columns, positive = with_positives(za, zb, scale, bias, known)
    terms = (rows + columns) / 2 - positive
    for z, negatives in ((za, negatives_b), (zb, negatives_a)):
        if negatives is not None:
            terms += against(z, negatives, scale, bias)
    return terms


def with_positives(
    za: Float[Array, "b d"],
    zb: Float[Array, "b d"],
    scale: Float[Array, ""],
    bias: Float[Array, ""],
    known: Known | None = None,
) -> tuple[Float[Array, "b"], Float[Array, "b"], Float[Array, "b"]]:
    """Sums of `log(1 + exp(logit))` along each row and each column, and the logit of each row's own pair; with labels
    or targets the sums are without the logits of targets, and the last is 0."""

    def positive(za: Any, zb: Any, shared: tuple[Array, Array]) -> tuple[Array]:
        own = streaming.paired_logits(za, zb, shared[0])
        return (own + shared[1].astype(own.dtype),)

    if not known:
        sums = streaming.stream(streaming.softplus_tile, za, zb, (scale, bias), paired=positive)
        return sums.row_sum[0], sums.column_sum[0], sums.paired[0]
    chosen = not known.keys().isdisjoint(("labels", "targets"))
    of_rows, of_columns = by_side(known, len(zb))

    def tile(rows: Any, columns: Any, shared: Any) -> Any:
        (x, a), (y, b) = rows, columns
        logit = streaming.logits(x, y, *shared)
        cost = streaming.softplus(logit)
        if chosen:
            cost -= belonging(a, b).astype(logit.dtype) * logit
        return (), (jnp.where(in_reach(a, b), cost, 0),)

    def own(rows: Any, columns: Any, shared: Any) -> tuple[Array]:
        return positive(rows[0], columns[0], shared)

    paired = streaming.no_pairs if chosen else own
    sums = streaming.stream(tile, (za, of_rows), (zb, of_columns), (scale, bias), paired=paired)
    return sums.row_sum[0], sums.column_sum[0], jnp.zeros_like(sums.row_sum[0]) if chosen else sums.paired[0]


def against(
    z: Float[Array, "b d"],
    negatives: Float[Array, "k d"] | Float[Array, "b k d"],
    scale: Float[Array, ""],
    bias: Float[Array, ""],
) -> Float[Array, "b"]:
    """Sum of `log(1 + exp(logit))` of each row with negatives that all rows share [k, d], or each with its own
    [b, k, d]."""
    if negatives.ndim == 2:
        return streaming.stream(streaming.softplus_tile, z, negatives, (scale, bias)).row_sum[0]
    score = streaming.product("bd,bkd->bk", z, negatives)
    return streaming.softplus(score * scale.astype(score.dtype) + bias.astype(score.dtype)).sum(1)

"""Contrast with time-reversed partners."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from bigcl.losses.contrast import Weigh, contrast, diagonal
from bigcl.losses.infonce import weighted_mean
from bigcl.losses.streaming import MASKED, paired_logits


def temporal_nce(
    za: Float[Array, "b d"],
    zb: Float[Array, "b d"],
    za_reversed: Float[Array, "b d"],
    zb_reversed: Float[Array, "b d"],
    scale: Float[Array, ""],
    *,
    own: float = 1.0,
    others: float = 1.0,
    reverse: float = 1.0,
    direction: Literal["both", "sum", "a_to_b", "b_to_a"] = "sum",
    reversible: Bool[Array, "b"] | None = None,
) -> Float[Array, ""]:
    r"""Temporal contrastive loss (Bagad et al. 2023, "Test of Time"; for sound TeminAL, Sinha et al.
    2024): the pair in reversed order of time is a negative.

    Rows and columns are the B pairs in order and the B reversed ones, 2B of each:

    $$l_r = \log \sum_c w_{rc} e^{S_{rc}} - S_{rr}, \qquad
    L_{a \to b} = \tfrac{1}{B} \sum_{r \le B} l_r + \tfrac{\beta}{B} \sum_{r > B} l_r,$$

    w = 1 for columns of the same direction of time, `own` for the row's own reversed partner, `others` for the reversed
    partners of other pairs.

    za, zb: embeddings of the pairs in order ("x, then y" and "x before y").  za_reversed, zb_reversed: of the same in
    reversed order ("y, then x" and "y before x"). All L2-normalised.
    scale: s, the inverse temperature.  reverse: beta, the weight of the reversed pairs as anchors.
    direction: "sum" as published; "both" is half of it, the others are one of the two.
    reversible: pairs that have a reversed partner, such as sounds one after the other, but not sounds at once; the
        reversed rows of others are neither candidates nor counted.
    """
    info = {"index": jnp.arange(len(za))} | ({} if reversible is None else {"there": reversible})
    plain = {"index": info["index"]}

    def block(
        x: Array, y: Array, a: dict[str, Array], b: dict[str, Array], weights: tuple[float, float]
    ) -> tuple[Array, ...]:
        candidates = None if weights == (1.0, 1.0) and "there" not in {*a, *b} else across_time(*weights)
        sides = contrast(x, y, scale, candidates=candidates, a=a, b=b)
        return tuple(side.partition for side in sides)

    forward_a, forward_b = block(za, zb, plain, plain, (1.0, 1.0))
    backward_a, backward_b = block(za_reversed, zb_reversed, info, info, (1.0, 1.0))
    if own or others:
        to_reversed, from_a = block(za, zb_reversed, plain, info, (own, others))
        from_b, to_forward = block(za_reversed, zb, info, plain, (own, others))
        forward_a, backward_b = jnp.logaddexp(forward_a, to_reversed), jnp.logaddexp(backward_b, from_a)
        backward_a, forward_b = jnp.logaddexp(backward_a, from_b), jnp.logaddexp(forward_b, to_forward)
    positive, mirrored = paired_logits(za, zb, scale), paired_logits(za_reversed, zb_reversed, scale)

    def anchors(forward: Array, backward: Array) -> Array:
        return (forward - positive).mean() + reverse * weighted_mean(backward - mirrored, reversible)

    terms = {"a_to_b": anchors(forward_a, backward_a), "b_to_a": anchors(forward_b, backward_b)}
    terms["sum"] = terms["a_to_b"] + terms["b_to_a"]
    terms["both"] = terms["sum"] / 2
    return terms[direction]


def across_time(own: float, others: float) -> Weigh:
    """Log-weights by index, none for rows or columns that are not there."""
    by_index = diagonal(own, others)

    def weigh(a: dict[str, Array], b: dict[str, Array]) -> Float[Array, "m n"]:
        found = by_index(a["index"], b["index"])
        for side, axis in ((a, 1), (b, 0)):
            if "there" in side:
                found = jnp.where(jnp.expand_dims(side["there"], axis), found, MASKED)
        return found

    return weigh

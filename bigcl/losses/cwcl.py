"""Continuously weighted contrastive loss."""

from typing import Literal

import jax
from jaxtyping import Array, Float

from bigcl.losses.contrast import contrast
from bigcl.losses.similarity import l2_normalize
from bigcl.losses.streaming import paired_logits, product


def cwcl(
    za: Float[Array, "b d"],
    zb: Float[Array, "b d"],
    scale: Float[Array, ""],
    *,
    frozen: Float[Array, "b e"] | None = None,
    direction: Literal["both", "sum", "a_to_b", "b_to_a"] = "sum",
) -> Float[Array, ""]:
    r"""CWCL (Srinivasa et al. 2023): a locked tower's own similarities as targets for the other.

    With logits $S = s\,A B^\top$ and $w_{ij} = \tfrac12 \cos(f_i, f_j) + \tfrac12$,

    $$L_{a \to b} = -\tfrac{1}{B} \sum_i \frac{\sum_j w_{ij} \log p_{ij}}{\sum_j w_{ij}}, \qquad
    p_{ij} = \frac{e^{S_{ij}}}{\sum_k e^{S_{ik}}},
    \qquad L_{b \to a} = -\tfrac{1}{B} \sum_j \log \frac{e^{S_{jj}}}{\sum_k e^{S_{kj}}}.$$

    za: embeddings of the locked side; no gradient goes there.  zb: of the trained side.  Both L2-normalised.
    scale: s, the inverse temperature.
    frozen: f, features of the locked side; None: `za`.
    direction: "sum" as published; "both" is half of it, the others are one of the two.
    """
    za = jax.lax.stop_gradient(za)
    f = l2_normalize(jax.lax.stop_gradient(za if frozen is None else frozen))
    rows, columns = contrast(za, zb, scale, targets=affinity, a=f, b=f)
    terms = {"a_to_b": rows.loss(), "b_to_a": columns.partition - paired_logits(za, zb, scale)}
    terms["sum"] = terms["a_to_b"] + terms["b_to_a"]
    terms["both"] = terms["sum"] / 2
    return terms[direction].mean()


def affinity(fa: Float[Array, "m e"], fb: Float[Array, "n e"]) -> Float[Array, "m n"]:
    """`cos / 2 + 1/2` of each row with each other; rows of unit length."""
    return product("me,ne->mn", fa, fb) / 2 + 0.5

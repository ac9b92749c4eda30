"""Decoupled contrastive loss."""

from typing import Literal

import jax
from jaxtyping import Array, Float

from bigcl.losses.infonce import infonce
from bigcl.losses.similarity import at_least_float32
from bigcl.losses.streaming import paired_logits


def dcl(
    za: Float[Array, "b d"],
    zb: Float[Array, "b d"],
    scale: Float[Array, ""],
    *,
    direction: Literal["both", "sum", "a_to_b", "b_to_a"] = "both",
    sigma: float | None = None,
    weight_gradient: bool = False,
) -> Float[Array, ""]:
    r"""DCL and DCLW (Yeh et al. 2022, "Decoupled Contrastive Learning"): NT-Xent whose positive is no
    candidate.

    $$L_{a \to b} = \tfrac{1}{B} \sum_i \Big[ -w_i\, s\, a_i \cdot b_i
    + \log \sum_{j \ne i} \big( e^{s\, a_i \cdot b_j} + e^{s\, a_i \cdot a_j} \big) \Big].$$

    za, zb: embeddings of two views, L2-normalised; 2 rows or more.  scale: s, the inverse temperature.
    direction: as for `infonce`.
    sigma: None: w = 1 (DCL). Else DCLW's negative von Mises-Fisher weight, by which hard positives weigh more:
        $w_i = 2 - e^{a_i \cdot b_i / \sigma} / \operatorname{mean}_j e^{a_j \cdot b_j / \sigma}$.
    weight_gradient: whether w has a gradient.
    """
    if len(za) < 2:
        raise ValueError("dcl: a batch of one row has no negatives")
    loss = infonce(za, zb, scale, direction=direction, within=True, decoupled=True)
    if sigma is None:
        return loss
    positive = paired_logits(za, zb, scale)
    weight = positive_weight(za, zb, sigma)
    sides = 2 if direction == "sum" else 1
    return loss + sides * ((1 - (weight if weight_gradient else jax.lax.stop_gradient(weight))) * positive).mean()


def positive_weight(za: Float[Array, "b d"], zb: Float[Array, "b d"], sigma: float) -> Float[Array, "b"]:
    """DCLW's weights of the positives; their mean is 1."""
    cosine = (at_least_float32(za) * at_least_float32(zb)).sum(-1)
    return 2 - len(za) * jax.nn.softmax(cosine / sigma)

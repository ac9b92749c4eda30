"""Softmax contrastive loss over the global batch."""

from typing import Literal

from jaxtyping import Array, Float

from bigcl.losses import streaming
from bigcl.losses.similarity import at_least_float32


def infonce(
    za: Float[Array, "b d"],
    zb: Float[Array, "b d"],
    scale: Float[Array, ""],
    *,
    direction: Literal["both", "a_to_b", "b_to_a"] = "both",
    label_smoothing: float = 0.0,
) -> Float[Array, ""]:
    r"""Symmetric InfoNCE (van den Oord et al. 2018; CLIP, Radford et al. 2021, figure 3).

    With logits $S = s\,A B^\top$, the mean over rows of the cross-entropy with the diagonal as target, averaged over
    $S$ and $S^\top$:

    $$L = \tfrac{1}{2B} \sum_i \big[ \log\sum_j e^{S_{ij}} - S_{ii} + \log\sum_j e^{S_{ji}} - S_{ii} \big].$$

    za, zb: embeddings of the two sides, L2-normalised; row i of one belongs to row i of the other.
    scale: s, the inverse temperature.
    direction: "a_to_b" keeps the softmax over the rows of `zb` alone, "b_to_a" the other.
    label_smoothing: share of the target that is spread evenly over the batch (Szegedy et al. 2016), as ALIGN does.

    >>> import jax.numpy as jnp
    >>> z = jnp.eye(4)
    >>> round(float(infonce(z, z, jnp.array(1.0))), 4)
    0.7437
    """
    if za.shape != zb.shape:
        raise ValueError(f"infonce: row i of each side must belong together, got shapes {za.shape} and {zb.shape}")
    return infonce_rows(za, zb, scale, direction=direction, label_smoothing=label_smoothing).mean()


def infonce_rows(
    za: Float[Array, "b d"],
    zb: Float[Array, "b d"],
    scale: Float[Array, ""],
    *,
    direction: Literal["both", "a_to_b", "b_to_a"] = "both",
    label_smoothing: float = 0.0,
) -> Float[Array, "b"]:
    """The terms whose mean `infonce` is, one for each row."""
    rows, columns = streaming.log_sum_exps(za, zb, scale)
    a_to_b = b_to_a = streaming.paired_logits(za, zb, scale)  # the logit of the target
    if label_smoothing:
        # Its even part is the mean logit of the row, which is the logit with the mean embedding.
        a, b, s = at_least_float32(za), at_least_float32(zb), scale.astype(rows.dtype)
        a_to_b = (1 - label_smoothing) * a_to_b + label_smoothing * s * (a @ b.mean(0))
        b_to_a = (1 - label_smoothing) * b_to_a + label_smoothing * s * (b @ a.mean(0))
    terms = {"a_to_b": rows - a_to_b, "b_to_a": columns - b_to_a}
    terms["both"] = (terms["a_to_b"] + terms["b_to_a"]) / 2
    return terms[direction]

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
    rows, columns = streaming.log_sum_exps(za, zb, scale)
    positive = streaming.paired_logits(za, zb, scale)
    mean_a, mean_b = (scale.astype(positive.dtype) * at_least_float32(z).mean(0) for z in (za, zb))
    # The smoothed target needs each row's mean logit, which is the logit with the mean embedding.
    a_to_b = rows - (1 - label_smoothing) * positive - label_smoothing * (at_least_float32(za) @ mean_b)
    b_to_a = columns - (1 - label_smoothing) * positive - label_smoothing * (at_least_float32(zb) @ mean_a)
    terms = {"both": (a_to_b + b_to_a) / 2, "a_to_b": a_to_b, "b_to_a": b_to_a}
    return terms[direction].mean()

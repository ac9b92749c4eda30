"""Several captions for an image, and the patches that each of them describes."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bigcl.losses import streaming
from bigcl.losses.infonce import infonce
from bigcl.losses.similarity import l2_normalize


def multi_positive(za: Float[Array, "b d"], *zb: Float[Array, "b d"], scale: Float[Array, ""]) -> Float[Array, ""]:
    r"""The mean of symmetric InfoNCE between `za` and each of the others (DreamLIP, Zheng et al. 2024):

    $$L = \tfrac{1}{T} \sum_t \mathrm{InfoNCE}(A, B_t, s).$$

    za: embeddings of the images, L2-normalised.
    zb: embeddings of their captions, one array for each of T slots; the negatives of a slot are the captions of the
        other images in the same slot.
    scale: s, the inverse temperature.
    """
    if not zb:
        raise ValueError("multi_positive: needs one caption or more for each image")
    losses = jnp.stack([infonce(za, z, scale) for z in zb])
    return losses.mean()


def grouping(
    *text: Float[Array, "b d"],
    scale: Float[Array, ""],
    patches: Float[Array, "b p d"],
    weighting: Literal["minmax", "softmax"] = "minmax",
    threshold: float = 0.0,
) -> Float[Array, ""]:
    r"""Contrast of each sub-caption with the patches that it describes (DreamLIP, Zheng et al. 2024).

    With unit rows t of sub-captions and v of patches, and the weights w of `grouping_weights`, a sub-caption pools the
    patches of its own image, $g_{bt} = \mathrm{norm}(\sum_p w_{btp} v_{bp})$, and

    $$L = \mathrm{InfoNCE}(G, T, s)$$

    over the B T rows of all sub-captions of all images: other sub-captions of the same image are negatives too.

    text: embeddings of the sub-captions, one array for each of T slots.
    patches: tokens of the image, in the same space. Both are normalised here.
    scale: s, the inverse temperature.
    weighting, threshold: of `grouping_weights`.
    """
    if not text:
        raise ValueError("grouping: needs one sub-caption or more for each image")
    t, v = l2_normalize(jnp.stack(text, 1)), l2_normalize(patches)
    weights = grouping_weights(t, v, weighting=weighting, threshold=threshold)
    grouped = l2_normalize(streaming.product("btp,bpd->btd", weights, v))
    rows = len(v) * len(text)
    return infonce(grouped.reshape(rows, -1), t.reshape(rows, -1), scale)


def grouping_weights(
    text: Float[Array, "b t d"],
    patches: Float[Array, "b p d"],
    *,
    weighting: Literal["minmax", "softmax"] = "minmax",
    threshold: float = 0.0,
) -> Float[Array, "b t p"]:
    r"""How much of each patch belongs to each sub-caption of its image; the sum over patches is 1.

    With $s_p = t \cdot v_p$ and $w_p = (s_p - \min s) / (\max s - \min s)$, or the softmax of s, weights below the
    threshold become 0 and the others are divided by their sum. Everything has a gradient, minimum and maximum too.

    text, patches: unit rows.
    threshold: a negative one stands for 1 / P. Where no weight reaches it, all are 0.
    """
    similarity = streaming.product("btd,bpd->btp", text, patches)
    if weighting == "softmax":
        weights = jax.nn.softmax(similarity)
    else:
        low, high = similarity.min(-1, keepdims=True), similarity.max(-1, keepdims=True)
        weights = (similarity - low) / (high - low + 1e-10)
    weights = jnp.where(weights < (1 / patches.shape[1] if threshold < 0 else threshold), 0, weights)
    return weights / jnp.maximum(weights.sum(-1, keepdims=True), 1e-10)

"""M3CoL: the mixup loss, the soft CLIP loss, and what the two training phases make of them."""

from collections.abc import Mapping
from typing import Literal

import jax.numpy as jnp
from jax import Array

from bigcl.losses.classification import classification
from bigcl.losses.mixup import mix, mixture_contrast, mixup, soft_clip
from tests.goldens.harness import ignores


def mixing(inputs: Mapping[str, Array], suffix: str = "") -> dict[str, Array]:
    """What to mix with, and the shares; 1 where a row is not selected."""
    beta = inputs[f"beta{suffix}"]
    coefficients = jnp.where(inputs[f"select{suffix}"] > 0, beta, jnp.ones_like(beta))
    return {"permutation": inputs[f"perm{suffix}"], "coefficients": coefficients}


def inverse(temperature: float, like: Array) -> Array:
    """A scale."""
    return jnp.asarray(1 / temperature, like.dtype)


@ignores()
def m3co_loss(inputs: Mapping[str, Array], *, tau: float) -> dict[str, Array]:
    """Mixed rows of one side."""
    x, y, draws = inputs["x"], inputs["y"], mixing(inputs)
    return {"loss": mixup(x, y, inverse(tau, x), **draws), "mixed": mix(x, **draws)}


@ignores()
def soft_clip_loss(inputs: Mapping[str, Array], *, tau: float) -> dict[str, Array]:
    """Similarities of the target as targets."""
    return {"loss": soft_clip(inputs["pred"], inputs["targ"], inverse(tau, inputs["pred"]))}


@ignores()
def m3col_total(
    inputs: Mapping[str, Array],
    *,
    phase: Literal["mixup", "softclip"],
    tau_mix: float = 0.1,
    tau_soft: float = 0.125,
    **weight: float,
) -> dict[str, Array]:
    """Three classifiers and the contrastive loss of a phase, both ways."""
    a, b = inputs["x1"], inputs["x2"]
    if phase == "mixup":
        scale = inverse(tau_mix, a)
        contrastive = mixup(a, b, scale, **mixing(inputs, "1")) + mixup(b, a, scale, **mixing(inputs, "2"))
    else:
        scale = inverse(tau_soft, a)
        contrastive = soft_clip(a, b, scale) + soft_clip(b, a, scale)
    heads = [classification(inputs[f"logits_{head}"], labels=inputs["labels"]) for head in ("fused", "1", "2")]
    return {"loss": sum(heads) + weight["lambda"] * contrastive, "contrastive": contrastive}


@ignores()
def released_contrastive(inputs: Mapping[str, Array], *, tau: float) -> dict[str, Array]:
    """Both sides mixed."""
    first, second = mixing(inputs, "1"), mixing(inputs, "2")
    a, b = mix(inputs["x1"], **first), mix(inputs["x2"], **second)
    scale = inverse(tau, a)
    return {"loss": mixture_contrast(a, b, scale, **first) + mixture_contrast(b, a, scale, **second)}


FUNCTIONS = {
    "m3co_loss": m3co_loss,
    "soft_clip_loss": soft_clip_loss,
    "m3col_total": m3col_total,
    "released_contrastive": released_contrastive,
}

"""DreamLIP: several captions for an image, and the patches of each."""

from collections.abc import Mapping
from typing import Literal

import jax.numpy as jnp
from jax import Array

from bigcl.losses import l2_normalize
from bigcl.losses.grouping import grouping, grouping_weights, multi_positive
from tests.goldens.harness import ignores


@ignores()
def multi_positive_loss(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """One loss for each slot of captions."""
    slots = jnp.moveaxis(inputs["text"], 1, 0)
    return {"loss": multi_positive(inputs["image"], *slots, scale=inputs["logit_scale"])}


@ignores()
def grouping_loss(
    inputs: Mapping[str, Array], *, sgl_delta: float = 0.0, sgl_norm: Literal["minmax", "softmax"] = "minmax"
) -> dict[str, Array]:
    """Captions and the patches that they describe."""
    text, patches = inputs["text"], inputs["patches"]
    options = {"weighting": sgl_norm, "threshold": sgl_delta}
    slots = jnp.moveaxis(text, 1, 0)
    return {
        "loss": grouping(*slots, scale=inputs["logit_scale_local"], patches=patches, **options),
        "weights": grouping_weights(l2_normalize(text), l2_normalize(patches), **options),
    }


FUNCTIONS = {"multi_positive_loss": multi_positive_loss, "grouping_loss": grouping_loss}

"""OpenCLIP's `SigLipLoss`."""

from collections.abc import Mapping

import jax.numpy as jnp
from jax import Array

from bigcl.losses import sigmoid, streaming
from tests.goldens.harness import ignores


@ignores("chunk_size")
def siglip_loss(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """One device's batch; chunks of any size give the same sum."""
    image, text, scale, bias = (inputs[k] for k in ("image", "text", "logit_scale", "logit_bias"))
    return {"loss": sigmoid(image, text, scale, bias), "logits_per_image": streaming.logits(image, text, scale, bias)}


@ignores("dist_impl")
def siglip_loss_world2(inputs: Mapping[str, Array], *, world_size: int = 2) -> dict[str, Array]:
    """The global batch, and what each rank would report: its own images against all texts."""
    image, text, scale, bias = (inputs[k] for k in ("image", "text", "logit_scale", "logit_bias"))

    def rank(x: Array, y: Array) -> Array:
        positive = streaming.paired_logits(x, y, scale) + bias
        sums = streaming.stream(streaming.softplus_tile, x, text, (scale, bias))
        return (sums.row_sum[0].sum() - positive.sum()) / len(x)

    ranks = zip(jnp.split(image, world_size), jnp.split(text, world_size), strict=True)
    return {"loss": sigmoid(image, text, scale, bias), "loss_per_rank": jnp.stack([rank(x, y) for x, y in ranks])}


FUNCTIONS = {"siglip_loss": siglip_loss, "siglip_loss_world2": siglip_loss_world2}

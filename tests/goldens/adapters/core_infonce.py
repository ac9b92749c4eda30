"""OpenCLIP's `ClipLoss`."""

from collections.abc import Mapping

import jax.numpy as jnp
from jax import Array

from bigcl.losses import infonce, streaming
from bigcl.losses.contrast import contrast
from tests.goldens.harness import ignores


@ignores()
def clip_loss(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """One device's batch. The optional `logit_bias` cancels in the softmax."""
    image, text, scale = inputs["image"], inputs["text"], inputs["logit_scale"]
    return {
        "loss": infonce(image, text, scale),
        "logits_per_image": streaming.logits(image, text, scale, inputs.get("logit_bias")),
    }


@ignores("local_loss", "gather_with_grad")
def clip_loss_world2(inputs: Mapping[str, Array], *, world_size: int = 2) -> dict[str, Array]:
    """The global batch, and what each rank would report: its own rows against all of the other side."""
    image, text, scale = inputs["image"], inputs["text"], inputs["logit_scale"]

    def rank(x: Array, y: Array) -> Array:
        rows_x, _ = contrast(x, text, scale)
        rows_y, _ = contrast(y, image, scale)
        return ((rows_x.partition + rows_y.partition) / 2 - streaming.paired_logits(x, y, scale)).mean()

    ranks = zip(jnp.split(image, world_size), jnp.split(text, world_size), strict=True)
    return {"loss": infonce(image, text, scale), "loss_per_rank": jnp.stack([rank(x, y) for x, y in ranks])}


FUNCTIONS = {"clip_loss": clip_loss, "clip_loss_world2": clip_loss_world2}

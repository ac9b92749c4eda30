"""Continuously weighted contrastive loss, and locked-image tuning."""

from collections.abc import Mapping

import jax
from jax import Array

from bigcl.losses import cwcl, infonce, l2_normalize
from bigcl.losses.cwcl import affinity
from tests.goldens.harness import ignores


@ignores()
def cwcl_loss(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Both directions, their sum, and the targets."""
    p, q, frozen, scale = (inputs[k] for k in ("p", "q", "frozen", "logit_scale"))
    f = l2_normalize(frozen)
    return {
        "loss": cwcl(p, q, scale, frozen=frozen),
        "cwcl": cwcl(p, q, scale, frozen=frozen, direction="a_to_b"),
        "cl": cwcl(p, q, scale, frozen=frozen, direction="b_to_a"),
        "weights": affinity(f, f),
    }


@ignores()
def lit_loss(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The image tower is locked."""
    image, text, scale = jax.lax.stop_gradient(inputs["zimg"]), inputs["ztxt"], inputs["t"]
    mask = inputs.get("mask")
    return {"loss": infonce(image, text, scale, mask=None if mask is None else mask.astype(bool))}


FUNCTIONS = {"cwcl_loss": cwcl_loss, "lit_loss": lit_loss}

"""CLIP with several views, and with a self-supervised term across modalities."""

import itertools
from collections.abc import Mapping

import jax.numpy as jnp
from jax import Array

from bigcl.losses import barlow, infonce, l2_normalize, negative_cosine, swapped, views_infonce
from tests.goldens.harness import ignores


@ignores("num_augs")  # the number of local views, which the arrays have
def cl2l(inputs: Mapping[str, Array], *, label_smoothing: float, loss_avg_or_sum: str) -> dict[str, Array]:
    """Global and local views."""
    image, text, h_image, h_text = (l2_normalize(inputs[k]) for k in ("z_image", "z_text", "h_image", "h_text"))
    scale = inputs["logit_scale"]
    scales = {"scale": scale, "local_scale": inputs["h_logit_scale"]}

    def loss(direction: str) -> Array:
        views = (image, text, *h_image, *h_text)
        return views_infonce(*views, **scales, label_smoothing=label_smoothing, direction=direction)

    return {
        "loss": loss({"avg": "both", "sum": "sum"}[loss_avg_or_sum]),
        "clip_loss": loss("both"),
        "clip_loss_image_global": infonce(image, text, scale, direction="a_to_b"),
        "clip_loss_text_global": infonce(image, text, scale, direction="b_to_a"),
    }


def mean(terms: list[Array]) -> Array:
    """Of scalars."""
    return jnp.stack(terms).mean()


@ignores()
def barlip(inputs: Mapping[str, Array], *, lamb: float, scale_loss: float, **options: float | str) -> dict[str, Array]:
    """With decorrelation."""
    pairs = [(inputs["v_image"], inputs["v_text"])]
    pairs += itertools.product(inputs["v_image_local"], inputs["v_text_local"])
    term = scale_loss * mean([barlow(a, b, redundancy=lamb, standardize=False) for a, b in pairs])
    return {"loss": term + cl2l(inputs, **options)["loss"], "barlip_loss": term}


@ignores("momentum")  # where v_* come from
def siamlip(inputs: Mapping[str, Array], **options: float | str) -> dict[str, Array]:
    """With prediction of the other modality."""
    pairs = [(inputs["p_image"], inputs["v_text"]), (inputs["p_text"], inputs["v_image"])]
    for one, other in (("image", "text"), ("text", "image")):
        pairs += itertools.product(inputs[f"p_{one}_local"], inputs[f"v_{other}_local"])
    term = mean([negative_cosine(p, v) for p, v in pairs])
    return {"loss": term + cl2l(inputs, **options)["loss"], "siamlip_loss": term}


@ignores()
def swalip(
    inputs: Mapping[str, Array], *, target_epsilon: float, sk_iters: int, swalip_weight: float, **options: float | str
) -> dict[str, Array]:
    """With swapped prediction of balanced assignments."""
    h = [*l2_normalize(inputs["h_image"]), *l2_normalize(inputs["h_text"])]
    term = swapped(*h, inputs["h_logit_scale"], epsilon=target_epsilon, iterations=sk_iters)
    return {"loss": swalip_weight * term + cl2l(inputs, **options)["loss"], "swalip_loss": term}


FUNCTIONS = {"cl2l": cl2l, "barlip": barlip, "siamlip": siamlip, "swalip": swalip}

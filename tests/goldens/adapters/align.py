"""ALIGN's loss, and queries of a picture and a text."""

from collections.abc import Mapping

import numpy as np
from jax import Array

from bigcl.evals.composed import combine
from bigcl.evals.embedding import unit
from bigcl.losses import infonce, l2_normalize
from tests.goldens.harness import ignores


@ignores()
def align_loss(inputs: Mapping[str, Array], *, label_smoothing: float) -> dict[str, Array]:
    """The sum of both directions, and their mean."""
    image, text, scale = l2_normalize(inputs["image"]), l2_normalize(inputs["text"]), 1 / inputs["temperature"]
    return {
        "loss": infonce(image, text, scale, label_smoothing=label_smoothing, direction="sum"),
        "half_loss": infonce(image, text, scale, label_smoothing=label_smoothing),
    }


@ignores()
def image_plus_text_query(inputs: Mapping[str, Array], *, text_weight: float) -> dict[str, np.ndarray]:
    """Cosines with the gallery, and its order by them."""
    image, text, gallery = (np.asarray(inputs[k]) for k in ("image", "text", "gallery"))
    scores = combine([image, text], [1.0, text_weight]) @ unit(gallery).T
    return {"scores": scores, "order": np.argsort(-scores, axis=1, kind="stable")}


FUNCTIONS = {"align_loss": align_loss, "image_plus_text_query": image_plus_text_query}

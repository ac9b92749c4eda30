"""Texts that no image shows."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jax import Array

from bigcl.data.distant_labels import visual_sentences
from bigcl.evals.embedding import cosine_distance
from bigcl.evals.metrics import macro_f1
from bigcl.losses import infonce, l2_normalize
from tests.goldens.harness import ignores


@ignores()
def null_image_loss(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Texts that are not visual have one image in common."""
    image = jnp.where(inputs["is_visual"][:, None], inputs["image"], inputs["null_image"][None])
    return {"loss": infonce(l2_normalize(image), l2_normalize(inputs["text"]), 1 / inputs["temperature"])}


@ignores()
def visualness_score(inputs: Mapping[str, Array], *, threshold: float) -> dict[str, np.ndarray | float]:
    """Distance of a text from that image."""
    score = cosine_distance(np.asarray(inputs["text"]), np.asarray(inputs["null_image"]))
    predicted = score > threshold
    return {"score": score, "predicted": predicted, "macro_f1": macro_f1(predicted, np.asarray(inputs["is_visual"]))}


@ignores()
def distant_labels(inputs: Mapping[str, Array], *, t_pos: float, t_neg: float) -> dict[str, np.ndarray]:
    """Of the sentences of one page."""
    label, image = visual_sentences(np.asarray(inputs["similarity"]), above=t_pos, below=t_neg)
    return {"label": label, "image": image}


FUNCTIONS = {
    "null_image_loss": null_image_loss,
    "visualness_score": visualness_score,
    "distant_labels": distant_labels,
}

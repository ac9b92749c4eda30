"""CLIP with uniformity and alignment, and the gap between modalities."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jax import Array

from bigcl.evals.geometry import centroids
from bigcl.losses import alignment, cross_uniformity, infonce, l2_normalize, uniformity
from tests.goldens.harness import ignores


@ignores("temperature")  # the input log_inv_temperature holds it
def cuaxu(inputs: Mapping[str, Array], *, remove_contrastive: bool, **terms: bool) -> dict[str, Array]:
    """All terms, and the sum of those that are on."""
    image, text = l2_normalize(inputs["image"]), l2_normalize(inputs["text"])
    found = {
        "clip": infonce(image, text, jnp.exp(inputs["log_inv_temperature"])),
        "uniformity": uniformity(image, text),
        "cross_uniformity": cross_uniformity(image, text),
        "alignment": alignment(image, text),
    }
    on = {"clip": not remove_contrastive, **terms}
    nothing = jnp.zeros_like(found["clip"])
    return {**found, "loss": sum((found[name] for name, wanted in on.items() if wanted), nothing)}


@ignores()
def gap_metrics(inputs: Mapping[str, Array]) -> dict[str, float]:
    """Of the normalised embeddings."""
    image, text = (np.asarray(l2_normalize(inputs[k])) for k in ("image", "text"))
    found = centroids(image, text)
    return {"centroid_distance": found["modality_gap"], "centroid_cosine": found["centroid_cosine"]}


FUNCTIONS = {"cuaxu": cuaxu, "gap_metrics": gap_metrics}

"""Mod-X: what the model before knew, and how far the new one has turned."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jax import Array

from bigcl.evals.geometry import angle_changes
from bigcl.losses import infonce, l2_normalize, similarity_distillation
from bigcl.losses.distillation import kept_rows
from tests.goldens.harness import ignores


@ignores()
def modx_loss(inputs: Mapping[str, Array], *, alpha: float) -> dict[str, Array]:
    """Both parts, and the rows that the old model gets right."""
    image, text, image_old, text_old = (l2_normalize(inputs[k]) for k in ("image", "text", "image_old", "text_old"))
    train = infonce(image, text, inputs["logit_scale"])
    teacher = {"teacher_a": image_old, "teacher_b": text_old}
    distill = similarity_distillation(image, text, jnp.ones((), image.dtype), **teacher, screen=True, reduction="sum")
    kept_image, kept_text = kept_rows(image_old, text_old)
    return {
        "loss": train + alpha * distill,
        "loss_train": train,
        "loss_distill": distill,
        "kept_rows_image": kept_image,
        "kept_rows_text": kept_text,
    }


@ignores()
def representation_rotation(inputs: Mapping[str, Array]) -> dict[str, np.ndarray]:
    """In degrees."""
    between, own = angle_changes(np.asarray(inputs["old"]), np.asarray(inputs["new"]))
    return {"self_angle_change": between, "rotation_angle": own}


FUNCTIONS = {"modx_loss": modx_loss, "representation_rotation": representation_rotation}

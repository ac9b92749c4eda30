"""TeminAL: order of sounds."""

from collections.abc import Mapping

import numpy as np
from jax import Array

from bigcl.data.transforms import audio
from bigcl.evals.embedding import unit
from bigcl.evals.metrics import mean
from bigcl.evals.pairs import judge
from bigcl.losses import l2_normalize
from bigcl.losses import temporal_nce as loss
from tests.goldens.harness import ignores


@ignores()
def temporal_nce(
    inputs: Mapping[str, Array], *, alpha_same: float, alpha_cross: float, beta: float
) -> dict[str, Array]:
    """Both directions, and their sum."""
    z = [l2_normalize(inputs[k]) for k in ("audio_fwd", "text_fwd", "audio_rev", "text_rev")]
    options = {"own": alpha_same, "others": alpha_cross, "reverse": beta}
    directions = {"loss": "sum", "audio_to_text": "a_to_b", "text_to_audio": "b_to_a"}
    return {k: loss(*z, inputs["logit_scale"], direction=d, **options) for k, d in directions.items()}


@ignores()
def compose_clip(inputs: Mapping[str, Array], *, mode: str, peak: bool) -> dict[str, np.ndarray]:
    """Two sounds as one."""
    return {"clip": audio.compose_clip(np.asarray(inputs["x"]), np.asarray(inputs["y"]), mode=mode, peak=peak)}


@ignores()
def zste_accuracy(inputs: Mapping[str, Array]) -> dict[str, float]:
    """The right prompt among all, and against its reverse alone."""
    scores = unit(np.asarray(inputs["audio"])) @ unit(np.asarray(inputs["prompts"])).T
    label, reverse = np.asarray(inputs["label"]), np.asarray(inputs["reversed_label"])
    two = np.take_along_axis(scores, np.stack([label, reverse], 1), 1)
    return {
        "accuracy": mean(scores.argmax(1) == label),
        "order_accuracy": mean(judge(two[:, None], tie=0.0)["text_score"]),
    }


FUNCTIONS = {"temporal_nce": temporal_nce, "compose_clip": compose_clip, "zste_accuracy": zste_accuracy}

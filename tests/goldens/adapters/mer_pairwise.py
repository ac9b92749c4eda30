"""Contrast of every pair of modalities, as in the authors' code and as in their paper."""

from collections.abc import Mapping

import jax.numpy as jnp
from jax import Array

from bigcl.losses import l2_normalize, pairwise, pairwise_views
from tests.goldens.harness import ignores


@ignores()
def modality_pairwise_loss_code(
    inputs: Mapping[str, Array], *, modalities: int, tau: float, base_tau: float
) -> dict[str, Array]:
    """Two views of each modality. The base temperature only scales the loss."""
    z = [l2_normalize(inputs[f"m{m}_v{v}"]) for v in (1, 2) for m in range(modalities)]
    return {"loss": tau / base_tau * pairwise_views(*z, scale=jnp.asarray(1 / tau))}


@ignores()
def modality_pairwise_clip(inputs: Mapping[str, Array], *, modalities: int, tau: float) -> dict[str, Array]:
    """One view of each."""
    z = [l2_normalize(inputs[f"m{m}"]) for m in range(modalities)]
    return {"loss": pairwise(*z, scale=jnp.asarray(1 / tau))}


FUNCTIONS = {
    "modality_pairwise_loss_code": modality_pairwise_loss_code,
    "modality_pairwise_clip": modality_pairwise_clip,
}

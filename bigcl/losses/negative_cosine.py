"""Prediction of one embedding from another."""

import jax
from jaxtyping import Array, Float

from bigcl.losses.similarity import l2_normalize


def negative_cosine(p: Float[Array, "b d"], z: Float[Array, "b d"]) -> Float[Array, ""]:
    r"""$2 - 2 \operatorname{mean}_i \cos(p_i, z_i)$, without gradient to z: the squared distance of unit vectors (BYOL,
    Grill et al. 2020, equation 2; SimSiam, Chen and He 2021, equation 1).

    p: predictions.  z: what they predict, of the other view or modality, from the same towers (SimSiam) or from their
    moving averages (BYOL). Of any length.
    """
    return 2 - 2 * (l2_normalize(p) * l2_normalize(jax.lax.stop_gradient(z))).sum(-1).mean()

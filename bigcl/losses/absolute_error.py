"""Regression of a number."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bigcl.losses.similarity import at_least_float32


def absolute_error(z: Float[Array, "b 1"], *, labels: Float[Array, "b"] | Int[Array, "b"]) -> Float[Array, ""]:
    r"""$\operatorname{mean}_i |z_i - y_i|$, least absolute deviations.

    z: predictions: outputs of width 1, not normalised.  labels: y, in the same unit.
    """
    return jnp.abs(at_least_float32(z)[:, 0] - labels.astype(at_least_float32(z).dtype)).mean()

"""Cross-correlation of two sides, by dimension."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from bigcl.losses.similarity import at_least_float32
from bigcl.losses.streaming import product


def barlow(
    za: Float[Array, "b d"], zb: Float[Array, "b d"], *, redundancy: float = 5e-3, standardize: bool = True
) -> Float[Array, ""]:
    r"""Barlow Twins (Zbontar et al. 2021, equations 1 and 2); across modalities BarLIP (Fini et al. 2023).

    $$C = \tfrac{1}{B} A^\top B, \qquad L = \sum_d (C_{dd} - 1)^2 + \lambda \sum_{d \ne e} C_{de}^2.$$

    za, zb: projections of the two sides.  redundancy: lambda.
    standardize: each dimension gets mean 0 and variance 1 over the batch first; False for what comes out of a batch
        normalisation.
    """
    a, b = at_least_float32(za), at_least_float32(zb)
    if standardize:
        a, b = standardized(a), standardized(b)
    c = product("bd,be->de", a, b) / len(a)
    on = jnp.diagonal(c)
    return jnp.square(on - 1).sum() + redundancy * (jnp.square(c).sum() - jnp.square(on).sum())


def standardized(z: Float[Array, "b d"]) -> Float[Array, "b d"]:
    """Mean 0 and variance 1 of each dimension over the batch."""
    centred = z - z.mean(0, keepdims=True)
    return centred / jnp.sqrt(jnp.square(centred).mean(0, keepdims=True) + 1e-12)

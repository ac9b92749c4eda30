"""Variance, invariance and covariance of two sides."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bigcl.losses.similarity import at_least_float32
from bigcl.losses.streaming import product


def variance_covariance(
    za: Float[Array, "b d"],
    zb: Float[Array, "b d"],
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    deviation: float = 1.0,
    epsilon: float = 1e-4,
) -> Float[Array, ""]:
    r"""VICReg (Bardes et al. 2022, equation 6): pairs agree, each dimension spreads, and no two say the same; without
    negatives.

    $$L = \lambda\, s(A, B) + \mu\, [v(A) + v(B)] + \nu\, [c(A) + c(B)],$$
    $$v(Z) = \tfrac{1}{d} \sum_j \max\big(0, \gamma - \sqrt{\operatorname{Var}(Z_j) + \epsilon}\big), \quad
    c(Z) = \tfrac{1}{d} \sum_{j \ne k} \operatorname{Cov}(Z)_{jk}^2$$

    with variances and covariances over the global batch, divided by $B - 1$. s is the mean squared difference over rows
    and dimensions, as in the authors' algorithm 1, which the default weights go with; equation 5 sums over dimensions.

    za, zb: projections of the two sides, not normalised; two rows or more.
    invariance, variance, covariance: lambda, mu and nu.  deviation: gamma.
    """
    a, b = at_least_float32(za), at_least_float32(zb)
    if len(a) < 2:
        raise ValueError("variance_covariance: expected two rows or more")
    (spread_a, shared_a), (spread_b, shared_b) = (statistics(z, deviation, epsilon) for z in (a, b))
    agreement = jnp.square(a - b).mean()
    return invariance * agreement + variance * (spread_a + spread_b) + covariance * (shared_a + shared_b)


def statistics(z: Float[Array, "b d"], deviation: float, epsilon: float) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """v and c of one side."""
    centred = z - z.mean(0, keepdims=True)
    cov = product("bd,be->de", centred, centred) / (len(z) - 1)
    var = jnp.diagonal(cov)
    spread = jax.nn.relu(deviation - jnp.sqrt(var + epsilon)).mean()
    return spread, (jnp.square(cov).sum() - jnp.square(var).sum()) / len(var)

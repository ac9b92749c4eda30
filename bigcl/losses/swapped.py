"""Swapped prediction between views, with balanced assignments as targets."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bigcl.losses.contrast import Weigh, contrast
from bigcl.losses.similarity import at_least_float32
from bigcl.losses.streaming import product


def swapped(
    a_1: Float[Array, "b d"],
    a_2: Float[Array, "b d"],
    b_1: Float[Array, "b d"],
    b_2: Float[Array, "b d"],
    scale: Float[Array, ""],
    *,
    epsilon: float = 0.05,
    iterations: int = 3,
) -> Float[Array, ""]:
    r"""SwALIP without prototypes (Fini et al. 2023, "Improved baselines for vision-language pre-training";
    after SwAV, Caron et al. 2020): the rows of the other side stand for the prototypes.

    With $S_{vw} = A_v B_w^\top$ of views v of one side and w of the other, and $T(S)$ its balanced assignment, each row
    of which sums to 1 (`sinkhorn`),

    $$L = -\tfrac{1}{8 B} \sum_{v, w} \sum_{ij} \big[ T(S_{\bar v \bar w})_{ij} \log \mathrm{softmax}_j(s S_{vw})_i
    + T(S_{\bar v \bar w}^\top)_{ji} \log \mathrm{softmax}_i(s S_{vw}^\top)_j \big]$$

    where $\bar v$ is the other view; no gradient through T.

    a_1, a_2: embeddings of the two views of one side.  b_1, b_2: of the other.  All L2-normalised.
    scale: s, the inverse temperature.  epsilon, iterations: of `sinkhorn`.
    """
    views = ((a_1, a_2), (b_1, b_2))
    total = jnp.zeros((), scale.dtype)
    for x, y in (views, views[::-1]):
        for v in (0, 1):
            for w in (0, 1):
                total += assigned(x[v], y[w], x[1 - v], y[1 - w], scale, epsilon, iterations).astype(total.dtype)
    return total / 8


def assigned(
    za: Float[Array, "b d"],
    zb: Float[Array, "b d"],
    other_a: Float[Array, "b d"],
    other_b: Float[Array, "b d"],
    scale: Float[Array, ""],
    epsilon: float,
    iterations: int,
) -> Float[Array, ""]:
    """Mean cross-entropy of the rows of one pair of views with the assignments of another."""
    other_a, other_b = jax.lax.stop_gradient((other_a, other_b))
    u, v = sinkhorn(other_a, other_b, epsilon=epsilon, iterations=iterations)
    rows, _ = contrast(za, zb, scale, targets=plan(epsilon), a=(other_a, u), b=(other_b, v))
    return rows.loss().mean()


def plan(epsilon: float) -> Weigh:
    """Entries of the balanced assignment by embeddings and potentials of row and column."""
    return lambda a, b: jnp.exp(product("md,nd->mn", a[0], b[0]) / epsilon + a[1][:, None] + b[1][None])


def sinkhorn(
    za: Float[Array, "m d"], zb: Float[Array, "n d"], *, epsilon: float = 0.05, iterations: int = 3
) -> tuple[Float[Array, "m"], Float[Array, "n"]]:
    r"""Potentials u, v of the balanced assignment $T_{ij} = e^{a_i \cdot b_j / \epsilon + u_i + v_j}$ (Sinkhorn and
    Knopp 1967; Cuturi 2013), without gradient.

    Each of the iterations, 1 or more, makes the columns of T sum to 1, then its rows, so that at the end the rows do,
    and the columns nearly (up to m / n). In the log domain and over tiles: T itself is never there.
    """
    za, zb = jax.lax.stop_gradient((za, zb))
    sharpness = jnp.asarray(1 / epsilon, at_least_float32(za).dtype)
    both: Weigh = lambda u, v: u[:, None] + v[None]  # noqa: E731

    def step(_: Any, potentials: tuple[Array, Array]) -> tuple[Array, Array]:
        u, v = potentials
        v = v - contrast(za, zb, sharpness, candidates=both, a=u, b=v)[1].partition
        return u - contrast(za, zb, sharpness, candidates=both, a=u, b=v)[0].partition, v

    start = jnp.zeros(len(za), sharpness.dtype), jnp.zeros(len(zb), sharpness.dtype)
    return jax.lax.fori_loop(0, iterations, step, start)

"""Contrast of mixtures: a mixture of two items in one modality belongs to both of them in the other."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from bigcl.losses import streaming
from bigcl.losses.contrast import contrast
from bigcl.losses.similarity import at_least_float32, l2_normalize


def mixup(
    za: Float[Array, "b d"],
    zb: Float[Array, "b d"],
    scale: Float[Array, ""],
    *,
    permutation: Int[Array, "b"] | None = None,
    coefficients: Float[Array, "b"] | None = None,
    rng: Key[Array, ""] | None = None,
) -> Float[Array, ""]:
    """Multimodal mixup contrast (M3CoL, Kumar et al. 2024) of mixed rows of `za` with rows of `zb`: the
    `mixture_contrast` of `mix(za, ...)`. Use it a second time with the two exchanged.

    za, zb: raw embeddings; they are mixed as they are and normalised here.
    scale: the inverse temperature.
    permutation, coefficients: what each row is mixed with, and its own share; None: drawn by `draw_mixing(rng, B)`.
    """
    if permutation is None or coefficients is None:
        if rng is None:
            raise ValueError("mixup: needs `permutation` and `coefficients`, or `rng` to draw them")
        permutation, coefficients = draw_mixing(rng, len(za))
    mixed = mix(za, permutation=permutation, coefficients=coefficients)
    return mixture_contrast(mixed, zb, scale, permutation=permutation, coefficients=coefficients)


def draw_mixing(
    rng: Key[Array, ""], batch: int, *, concentration: float = 0.15, probability: float = 0.5
) -> tuple[Int[Array, "b"], Float[Array, "b"]]:
    """A permutation of the rows, and shares from Beta(concentration, concentration); a row is mixed with the given
    probability, and has a share of 1 otherwise."""
    order, share, chosen = jax.random.split(rng, 3)
    beta = jax.random.beta(share, concentration, concentration, (batch,), jnp.float32)
    mixed = jax.random.bernoulli(chosen, probability, (batch,))
    return jax.random.permutation(order, batch), jnp.where(mixed, beta, jnp.ones_like(beta))


def mix(
    x: Float[Array, "b d"], *, permutation: Int[Array, "b"], coefficients: Float[Array, "b"]
) -> Float[Array, "b d"]:
    r"""$m_i = \beta_i x_i + (1 - \beta_i) x_{\pi(i)}$, in float32 or better."""
    x = at_least_float32(x)
    share = coefficients.astype(x.dtype)[:, None]
    return share * x + (1 - share) * x[permutation]


def mixture_contrast(
    mixed: Float[Array, "b d"],
    other: Float[Array, "b d"],
    scale: Float[Array, ""],
    *,
    permutation: Int[Array, "b"],
    coefficients: Float[Array, "b"],
) -> Float[Array, ""]:
    r"""InfoNCE whose targets are the two sources of each mixture (M3CoL, Kumar et al. 2024).

    With unit rows m, y and logits $l_{ij} = s\,m_i \cdot y_j$, and the target Y = diag(beta) in which $Y_{i \pi(i)}$
    is then set to $1 - \beta_i$,

    $$L = -\tfrac{1}{2B} \sum_{ij} Y_{ij} \Big[ l_{ij} - \log\sum_k e^{l_{ik}} + l_{ij} - \log\sum_k e^{l_{kj}} \Big].$$

    A row that the permutation leaves in place has the one target $1 - \beta_i$, as in the authors' code; so it has none
    where it is not mixed.

    mixed, other: raw embeddings, normalised here.
    """
    m, y = l2_normalize(mixed), l2_normalize(other)
    rows, columns = (side.partition for side in contrast(m, y, scale))
    source = 1 - coefficients.astype(rows.dtype)
    own = jnp.where(permutation == jnp.arange(len(m)), 0, 1 - source)
    target_logits = own * streaming.paired_logits(m, y, scale)
    target_logits = target_logits + source * streaming.paired_logits(m, y[permutation], scale)
    column_weight = own.at[permutation].add(source)  # of column j: Y_jj and, of the row that was mixed with j, 1 - beta
    return ((own + source) * rows + column_weight * columns - 2 * target_logits).mean() / 2


def soft_clip(za: Float[Array, "b d"], zb: Float[Array, "b d"], scale: Float[Array, ""]) -> Float[Array, ""]:
    r"""InfoNCE whose targets are the similarities among the rows of `zb` (SoftCLIP, Gao et al. 2023; M3CoL, Kumar et
    al. 2024).

    With unit rows, logits $l_{ij} = s\,a_i \cdot b_j$ and targets $T = \mathrm{softmax}_j(s\,b_i \cdot b_j)$, which
    have a gradient and serve both directions as they are,

    $$L = -\tfrac{1}{2B} \sum_{ij} T_{ij} \Big[l_{ij} - \log\sum_k e^{l_{ik}} + l_{ji} - \log\sum_k e^{l_{ki}}\Big].$$

    za, zb: raw embeddings, normalised here.  scale: s, the inverse temperature. Use it a second time with the two
    exchanged.
    """
    a, b = l2_normalize(za), l2_normalize(zb)
    target_lse = contrast(b, b, scale)[0].partition

    def tile(rows, columns, scale):
        (a, b, lse), (c, d) = rows, columns
        forth, back = streaming.logits(a, d, scale), streaming.logits(b, c, scale)  # l_ij and l_ji
        target = jnp.exp(streaming.logits(b, d, scale) - lse[:, None])
        return (forth,), (target * (forth + back),)

    sums = streaming.stream(tile, (a, b, target_lse), (a, b), scale)
    return (sums.row_lse[0] + sums.column_lse[0] - sums.row_sum[0]).mean() / 2

"""What every tower returns."""

from typing import NamedTuple

from jaxtyping import Array, Bool, Float


class Encoding(NamedTuple):
    """The output of a tower.

    embedding: one vector per example, not normalised.
    tokens: the sequence it was pooled from, after the last norm, or None for towers without one.
    mask: True where a token is real, or None when all are.
    features: what the last linear layer made `embedding` of, or None for towers without one; projections of their own
        (SimCLR, Chen et al. 2020) read them.
    """

    embedding: Float[Array, "b d"]
    tokens: Float[Array, "b n w"] | None = None
    mask: Bool[Array, "b n"] | None = None
    features: Float[Array, "b f"] | None = None

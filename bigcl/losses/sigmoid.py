"""Pairwise sigmoid loss over the global batch."""

from jaxtyping import Array, Float

from bigcl.losses import streaming


def sigmoid(
    za: Float[Array, "b d"], zb: Float[Array, "b d"], scale: Float[Array, ""], bias: Float[Array, ""]
) -> Float[Array, ""]:
    r"""Sigmoid loss for language-image pre-training (SigLIP, Zhai et al. 2023, equation 1).

    Every pair is a binary decision, $z_{ij} = 1$ on the diagonal and $-1$ elsewhere; the sum over all pairs is divided
    by B, not by B squared:

    $$L = -\tfrac{1}{B} \sum_{ij} \log \sigma\big(z_{ij} (s\,a_i \cdot b_j + t)\big)
    = \tfrac{1}{B} \Big[\sum_{ij} \log(1 + e^{l_{ij}}) - \sum_i l_{ii}\Big].$$

    za, zb: embeddings of the two sides, L2-normalised; row i of one belongs to row i of the other.
    scale: s, the inverse temperature.  bias: t, which starts near -log(B) so that the many negatives do not dominate.
    """
    if za.shape != zb.shape:
        raise ValueError(f"sigmoid: row i of each side must belong together, got shapes {za.shape} and {zb.shape}")
    rows, _, positive = with_positives(za, zb, scale, bias)
    return (rows.sum() - positive.sum()) / len(za)


def sigmoid_rows(
    za: Float[Array, "b d"], zb: Float[Array, "b d"], scale: Float[Array, ""], bias: Float[Array, ""]
) -> Float[Array, "b"]:
    """Terms whose mean `sigmoid` is, one for each row: its own pair, and half of each negative it is in."""
    rows, columns, positive = with_positives(za, zb, scale, bias)
    return (rows + columns) / 2 - positive


def with_positives(
    za: Float[Array, "b d"], zb: Float[Array, "b d"], scale: Float[Array, ""], bias: Float[Array, ""]
) -> tuple[Float[Array, "b"], Float[Array, "b"], Float[Array, "b"]]:
    """Sums of `log(1 + exp(logit))` along each row and each column, and the logit of each row's own pair."""

    def positive(za: Array, zb: Array, shared: tuple[Array, Array]) -> tuple[Array]:
        own = streaming.paired_logits(za, zb, shared[0])
        return (own + shared[1].astype(own.dtype),)

    sums = streaming.stream(streaming.softplus_tile, za, zb, (scale, bias), paired=positive)
    return sums.row_sum[0], sums.column_sum[0], sums.paired[0]

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
    positive = streaming.paired_logits(za, zb, scale)
    positive = positive + bias.astype(positive.dtype)
    return (streaming.softplus_sum(za, zb, scale, bias) - positive.sum()) / len(za)


def sigmoid_rows(
    za: Float[Array, "b d"], zb: Float[Array, "b d"], scale: Float[Array, ""], bias: Float[Array, ""]
) -> Float[Array, "b"]:
    """Terms whose mean `sigmoid` is, one for each row: its own pair, and half of each negative it is in."""
    rows, columns = streaming.softplus_sums(za, zb, scale, bias)
    positive = streaming.paired_logits(za, zb, scale)
    return (rows + columns) / 2 - positive - bias.astype(positive.dtype)

"""Every pair of several modalities."""

import itertools

import jax.numpy as jnp
from jaxtyping import Array, Float

from bigcl.losses.contrast import contrast, off_diagonal
from bigcl.losses.infonce import infonce
from bigcl.losses.similarity import l2_normalize
from bigcl.losses.streaming import paired_logits


def pairwise(*z: Float[Array, "b d"], scale: Float[Array, ""]) -> Float[Array, ""]:
    r"""InfoNCE of each pair of modalities, averaged over the pairs (Franceschini et al. 2022, "Multimodal Emotion
    Recognition with Modality-Pairwise Unsupervised Contrastive Loss"):
    $L = \operatorname{mean}_{m < n} L_{mn}$.

    z: embeddings of two modalities or more, L2-normalised; row i of each belongs together.
    scale: the inverse temperature.
    """
    if len(z) < 2:
        raise ValueError("pairwise: expected two modalities or more")
    losses = [infonce(x, y, scale) for x, y in itertools.combinations(z, 2)]
    return sum(losses[1:], losses[0]) / len(losses)


def concatenated(*z: Float[Array, "b _"], scale: Float[Array, ""]) -> Float[Array, ""]:
    """InfoNCE between two views of all modalities side by side, what `pairwise` is compared with (Franceschini et al.
    2022, without their modality contrast).

    z: raw embeddings, the first views of all modalities, then the second views in the same order; joined, then
        normalised here.
    scale: the inverse temperature.
    """
    half, odd = divmod(len(z), 2)
    if odd or not half:
        raise ValueError(f"concatenated: expected two views of each modality, got {len(z)} arrays")
    first, second = (l2_normalize(jnp.concatenate(views, 1)) for views in (z[:half], z[half:]))
    return infonce(first, second, scale)


def pairwise_views(*z: Float[Array, "b d"], scale: Float[Array, ""]) -> Float[Array, ""]:
    r"""The form of the authors' code (Franceschini et al. 2022), of two views of each modality: the positive is the
    other view of the same example in the other modality; the same view of it is no candidate.

    Rows are the 2B views of modality m, columns those of modality n, p(r) the other view of row r:

    $$L_{mn} = \operatorname{mean}_r \tfrac12 \Big[ \log \sum_{c \ne r} e^{S_{rc}} - S_{r, p(r)} \Big], \qquad
    L = \operatorname{mean}_{m \ne n} L_{mn}.$$

    The factor 1/2 is theirs: the positives are counted with the anchor itself.

    z: the first views of all modalities, then the second views in the same order; L2-normalised, 2 rows or more, row i
        of each belongs together.
    scale: the inverse temperature.
    """
    half, odd = divmod(len(z), 2)
    if odd or half < 2:
        raise ValueError(f"pairwise_views: expected two views of two modalities or more, got {len(z)} arrays")
    views = list(zip(z[:half], z[half:], strict=True))
    losses = [cross_view(*m, *n, scale) for m, n in itertools.combinations(views, 2)]
    return sum(losses[1:], losses[0]) / len(losses)


def cross_view(
    a_1: Float[Array, "b d"],
    a_2: Float[Array, "b d"],
    b_1: Float[Array, "b d"],
    b_2: Float[Array, "b d"],
    scale: Float[Array, ""],
) -> Float[Array, ""]:
    """The mean over the views of both modalities as rows: (L_ab + L_ba) / 2."""
    same_1, same_2 = off_diagonal(a_1, b_1, scale), off_diagonal(a_2, b_2, scale)
    total = jnp.zeros(len(a_1), same_1[0].dtype)
    for x, y, (own_x, _), (_, own_y) in ((a_1, b_2, same_1, same_2), (a_2, b_1, same_2, same_1)):
        rows, columns = contrast(x, y, scale)
        positive = paired_logits(x, y, scale)
        total += jnp.logaddexp(rows.partition, own_x) + jnp.logaddexp(columns.partition, own_y) - 2 * positive
    return total.mean() / 8

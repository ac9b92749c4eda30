"""One item against its texts in K languages."""

import functools

import jax.numpy as jnp
from jaxtyping import Array, Float

from bigcl.losses.contrast import contrast
from bigcl.losses.streaming import paired_logits


def one_to_k(*z: Float[Array, "b d"], scale: Float[Array, ""], divisor: float | None = None) -> Float[Array, ""]:
    r"""1-to-K contrastive loss (Nie et al. 2024, "Improving the Consistency in Cross-Lingual Cross-Modal Retrieval with
    1-to-K Contrastive Learning").

    All texts of the batch, in all languages, are candidates of an item, and its own K are its targets. With
    $S^{(k)} = s\,A B_k^\top$,

    $$L = \frac{1}{2 D} \Big[ \frac{1}{B} \sum_i \sum_k \Big( \log \sum_{j, l} e^{S^{(l)}_{ij}} - S^{(k)}_{ii} \Big)
    + \frac{1}{B K} \sum_{i, k} \Big( \log \sum_j e^{S^{(k)}_{ji}} - S^{(k)}_{ii} \Big) \Big].$$

    z: the items A, then their texts B_k, one array for each language; L2-normalised, row i of each belongs together.
    scale: s, the inverse temperature.
    divisor: D; None: K, as in the released code, whose second part so weighs 1 / K of the usual.
    """
    if len(z) < 2:
        raise ValueError("one_to_k: expected items and one text or more")
    item, *texts = z
    pairs = [contrast(item, text, scale) for text in texts]
    every = functools.reduce(jnp.logaddexp, [rows.partition for rows, _ in pairs])
    own = sum(paired_logits(item, text, scale) for text in texts)
    k = len(texts)
    item_to_text = k * every - own
    text_to_item = (sum(columns.partition for _, columns in pairs) - own) / k
    return (item_to_text + text_to_item).mean() / (2 * (k if divisor is None else divisor))

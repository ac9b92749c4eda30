"""Labels that come from a model's similarities rather than from people."""

import numpy as np
from jaxtyping import Float, Int


def visual_sentences(
    similarity: Float[np.ndarray, "n m"], *, above: float = 0.35, below: float = 0.18
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Which sentences of a page are visual, and which of its images shows each (Verma et al. 2023, "Learning the
    Visualness of Text Using Large Vision-Language Models").

    similarity: cosines of n sentences with m images of the page.

    Label 1 and the most similar image where a similarity is larger than `above`; label 0 where all are smaller than
    `below`, or there is no image; label -1, to be dropped, for what is between. The image is -1 where there is none.
    """
    if not similarity.shape[1]:
        return np.zeros(len(similarity), int), np.full(len(similarity), -1)
    top = similarity.max(1)
    label = np.where(top > above, 1, np.where(top < below, 0, -1))
    return label, np.where(label == 1, similarity.argmax(1), -1)

"""The 1-to-K loss and the mean rank variance."""

from collections.abc import Mapping

import numpy as np
from jax import Array

from bigcl.evals.metrics import rank_summary
from bigcl.evals.multilingual import mean_rank_variance
from bigcl.losses import one_to_k
from tests.goldens.harness import ignores


@ignores()
def one_to_k_loss(inputs: Mapping[str, Array], *, K: int, need_divm: int) -> dict[str, Array]:
    """Rows of texts are grouped by image; need_divm: 0 for K, negative for 1."""
    image, text = inputs["image"], inputs["text"]
    texts = text.reshape(len(image), K, -1).swapaxes(0, 1)
    divisor = float(need_divm or K) if need_divm >= 0 else 1.0
    return {"loss": one_to_k(image, *texts, scale=1 / inputs["temperature"], divisor=divisor)}


@ignores()
def mrv(inputs: Mapping[str, Array]) -> dict[str, np.ndarray | float]:
    """From whole matrices, one for each language, where only larger similarities come before the own one."""
    similarity = np.asarray(inputs["similarity"])
    rank = 1 + (similarity > np.einsum("...ii->...i", similarity)[..., None]).sum(-1)
    return {
        "rank": rank,
        "mrv": mean_rank_variance(rank),
        "recall_at_1": np.array([rank_summary(r, [1])["recall@1"] for r in rank]),
    }


FUNCTIONS = {"one_to_k_loss": one_to_k_loss, "mean_rank_variance": mrv}

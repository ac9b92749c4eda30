"""NegCLIP's loss and the ARO benchmark."""

from collections.abc import Mapping

import numpy as np
from jax import Array

from bigcl.data.word_order import shuffle_trigrams, trigram_of_word
from bigcl.evals.metrics import mean, per_group
from bigcl.evals.pairs import judge
from bigcl.losses import infonce
from tests.goldens.harness import ignores


@ignores("batch", "hard_images")  # what the rows are, which the loss need not know
def negclip_loss(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Texts beyond the images are negatives of the images alone."""
    image, text, n = inputs["image"], inputs["text"], len(inputs["image"])
    negatives = text[n:] if len(text) > n else None
    return {"loss": infonce(image, text[:n], inputs["logit_scale"], negatives_b=negatives)}


@ignores()
def aro_relation_accuracy(inputs: Mapping[str, Array], *, min_count: int) -> dict[str, np.ndarray | float]:
    """The right caption is the second."""
    right = judge(np.asarray(inputs["scores"])[:, :, ::-1], tie=0.0)["text_score"]
    group = np.asarray(inputs["group"])
    counted = lambda members: {"accuracy": mean(right[members]), "count": int(members.sum())}  # noqa: E731
    found = per_group(group.tolist(), counted, min_count)
    kept = [g for g in np.unique(group) if f"{g}/count" in found]
    return {
        "per_group": np.array([found[f"{g}/accuracy"] for g in kept]),
        "count": np.array([found[f"{g}/count"] for g in kept]),
        "macro": found["mean/accuracy"] if kept else float("nan"),
    }


@ignores()
def aro_order_accuracy(inputs: Mapping[str, Array]) -> dict[str, float]:
    """The right caption is the first."""
    return {"accuracy": mean(judge(np.asarray(inputs["scores"]), ties="first", tie=0.0)["text_score"])}


@ignores()
def trigram_groups(inputs: Mapping[str, Array]) -> dict[str, np.ndarray]:
    """Groups, and their permutation."""
    words = int(inputs["n"])
    return {
        "group_of_token": trigram_of_word(words),
        "order": shuffle_trigrams(words, np.asarray(inputs["group_permutation"])),
    }


FUNCTIONS = {
    "negclip_loss": negclip_loss,
    "aro_relation_accuracy": aro_relation_accuracy,
    "aro_order_accuracy": aro_order_accuracy,
    "trigram_groups": trigram_groups,
}

"""Just Ask: contrast with unique answers, the loss and the accuracy for several annotators."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jax import Array

from bigcl.evals.metrics import consensus_accuracy
from bigcl.losses.classification import consensus
from bigcl.losses.unique import unique_contrast, unique_labels
from tests.goldens.harness import ignores


@ignores()
def answer_contrastive(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Questions against the unique answers of the batch."""
    labels = inputs["answer_id"]
    unique = unique_labels(labels)
    return {
        "loss": unique_contrast(inputs["fusion"], inputs["answer_rows"], labels=labels),
        "target": unique.target,
        "n_unique": unique.number,
    }


@ignores()
def soft_answer_loss(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Answers of several annotators."""
    return {"loss": consensus(inputs["logits"], counts=inputs["counts"])}


@ignores()
def ivqa_accuracy(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """At 1 and at 3."""
    scores, counts = np.asarray(inputs["logits"]), np.asarray(inputs["counts"])
    return {f"acc_at_{k}": jnp.asarray(consensus_accuracy(scores, counts, k)) for k in (1, 3)}


FUNCTIONS = {
    "answer_contrastive": answer_contrastive,
    "soft_answer_loss": soft_answer_loss,
    "ivqa_accuracy": ivqa_accuracy,
}

"""Classification by the nearest training examples."""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from bigcl.data.tokenizers import Tokenizer
from bigcl.evals import Encode
from bigcl.evals.embedding import Examples
from bigcl.evals.metrics import class_summary
from bigcl.evals.ranks import first
from bigcl.registry import Part

BLOCK = 4096


class KNN:
    """The k nearest training examples vote, each with weight `exp(cosine / temperature)` (Wu et al. 2018, section 3.4,
    as DINO and others report it).

    train, source: where neighbours and queries come from.  label: key of the class in both; None is left out.
    item: the tower's input.  ks: accuracy and its mean per class are reported for each k.
    temperature: 0.07 is Wu et al.'s; None: every neighbour has one vote. Of equal votes the first class wins.

    After `run`, `artifacts` holds `classes`, `labels` [n] and `predicted/<k>` [n] of the labelled queries.
    """

    def __init__(
        self,
        *,
        train: Annotated[Part, "source"],
        source: Annotated[Part, "source"],
        transforms: Sequence[Annotated[Part, "transform"]] = (),
        label: str = "label",
        item: str = "image",
        ks: Sequence[int] = (1, 10, 20),
        temperature: float | None = 0.07,
        batch: int = 200,
        tokenizer: Tokenizer | None = None,
        mesh: Mesh,
    ):
        self.train, self.examples = (Examples(part, transforms, tokenizer, batch) for part in (train, source))
        self.label, self.item, self.ks, self.temperature, self.mesh = label, item, tuple(ks), temperature, mesh
        self.artifacts: dict[str, Any] = {}

    def run(self, encode: Encode) -> dict[str, float]:
        names, x, target = self.train.labelled(encode, self.item, self.label)
        _, queries, wanted = self.examples.labelled(encode, self.item, self.label, names)
        ids = np.arange(len(x), dtype=np.int32)
        places, scores, _ = first(queries, x, np.full(len(queries), -1, np.int32), ids, self.mesh, k=max(self.ks))
        self.artifacts = {"classes": names, "labels": wanted}
        numbers: dict[str, float] = {}
        for k in self.ks:
            weights = np.ones_like(scores) if self.temperature is None else np.exp((scores - 1) / self.temperature)
            predicted = self.artifacts[f"predicted/{k}"] = vote(target[places[:, :k]], weights[:, :k], len(names))
            numbers |= {f"{metric}@{k}": value for metric, value in class_summary(predicted, wanted).items()}
        return {**numbers, "examples": float(len(wanted))}


def vote(classes: Int[np.ndarray, "n k"], weights: Float[np.ndarray, "n k"], count: int) -> Int[np.ndarray, "n"]:
    """The class of the largest sum of weights for each row."""
    winners = []
    for start in range(0, len(classes), BLOCK):
        some = classes[start : start + BLOCK]
        place = some + count * np.arange(len(some))[:, None]
        sums = np.bincount(place.ravel(), weights[start : start + BLOCK].ravel(), minlength=count * len(some))
        winners.append(sums.reshape(len(some), count).argmax(1))
    return np.concatenate(winners) if winners else np.zeros(0, np.int64)

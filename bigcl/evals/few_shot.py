"""Classification from a few examples of each class by least squares."""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from bigcl.data.tokenizers import Tokenizer
from bigcl.evals import Encode
from bigcl.evals.embedding import Examples
from bigcl.evals.linear import STRENGTHS, ridge
from bigcl.evals.metrics import class_summary, mean
from bigcl.registry import Part


class FewShot:
    """Ridge regression from embeddings to {-1, 1} for each class, on `shots` examples of each (Kolesnikov et al. 2020;
    Dosovitskiy et al. 2021, section 4.1).

    train, source: where the shots and the test examples come from.  label: key of the class in both; None is left out.
    item: the tower's input, or several, whose embeddings stand side by side.
    standardize: whether each feature has mean 0 and variance 1 over the training set.
    shots: numbers of examples of a class, or fewer where there are fewer.
    repeats: draws of the shots, of seeds 0, 1, ...; means over them are reported, and the standard deviation.
    strengths: the leave-one-out error on the shots decides between them.

    After `run`, `artifacts` holds `classes`, `labels` [n] and `predicted/<shots>` [repeats, n].
    """

    def __init__(
        self,
        *,
        train: Annotated[Part, "source"],
        source: Annotated[Part, "source"],
        transforms: Sequence[Annotated[Part, "transform"]] = (),
        label: str = "label",
        item: str | Sequence[str] = "image",
        standardize: bool = False,
        shots: Sequence[int] = (1, 5, 10, 25),
        repeats: int = 3,
        strengths: Sequence[float] = STRENGTHS,
        batch: int = 200,
        tokenizer: Tokenizer | None = None,
        mesh: Mesh,
    ):
        self.train, self.examples = (Examples(part, transforms, tokenizer, batch) for part in (train, source))
        self.label, self.item, self.shots, self.repeats = label, item, tuple(shots), repeats
        self.standardize, self.strengths, self.mesh = standardize, tuple(strengths), mesh
        self.artifacts: dict[str, Any] = {}

    def run(self, encode: Encode) -> dict[str, float]:
        names, x, target = self.train.labelled(encode, self.item, self.label)
        _, queries, wanted = self.examples.labelled(encode, self.item, self.label, names)
        if self.standardize:
            middle, spread = x.mean(0), np.maximum(x.std(0), 1e-6)
            x, queries = (x - middle) / spread, (queries - middle) / spread
        self.artifacts = {"classes": names, "labels": wanted}
        numbers: dict[str, float] = {}
        for shots in self.shots:
            predicted = []
            for seed in range(self.repeats):
                some = draw(target, shots, seed)
                signs = 2 * np.eye(len(names), dtype=np.float32)[target[some]] - 1
                predicted.append(ridge(x[some], signs, self.mesh, self.strengths)(queries).argmax(1))
            each = [class_summary(p, wanted)["accuracy"] for p in predicted]
            self.artifacts[f"predicted/{shots}"] = np.stack(predicted)
            numbers |= {f"accuracy@{shots}": mean(each), f"deviation@{shots}": float(np.std(each))}
        return {**numbers, "examples": float(len(wanted))}


def draw(target: Int[np.ndarray, "n"], shots: int, seed: int) -> Int[np.ndarray, "m"]:
    """Places of so many examples of each class."""
    order = np.random.default_rng(seed).permutation(len(target))
    return np.sort(np.concatenate([order[target[order] == c][:shots] for c in np.unique(target)]))

"""Logistic regression on frozen embeddings."""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from jax.sharding import Mesh

from bigcl.data.tokenizers import Tokenizer
from bigcl.evals import Encode
from bigcl.evals.embedding import Examples
from bigcl.evals.linear import STRENGTHS, logistic
from bigcl.evals.metrics import class_summary, mean
from bigcl.registry import ConfigError, Part


class LinearProbe:
    """Multinomial logistic regression by L-BFGS, its regularisation chosen on part of the training set (Radford et al.
    2021, appendix A.3).

    train, source: the training set and the test set.  label: key of the class in both; None is left out.
    item: the tower's input.
    strengths: the path; with several, one training example in five, drawn by `seed`, decides between them, and the
        model is fitted again on all. See `bigcl.evals.linear` for the unit.

    Reports accuracy, its mean per class, and the strength. After `run`, `artifacts` holds `classes`, `labels` [n],
    `predicted` [n], `weights` [D, C] and `bias` [C].
    """

    def __init__(
        self,
        *,
        train: Annotated[Part, "source"],
        source: Annotated[Part, "source"],
        transforms: Sequence[Annotated[Part, "transform"]] = (),
        label: str = "label",
        item: str = "image",
        strengths: Sequence[float] = STRENGTHS,
        seed: int = 0,
        batch: int = 200,
        tokenizer: Tokenizer | None = None,
        mesh: Mesh,
    ):
        if not strengths:
            raise ConfigError("linear_probe.strengths: give one or more")
        self.train, self.examples = (Examples(part, transforms, tokenizer, batch) for part in (train, source))
        self.label, self.item, self.strengths, self.seed, self.mesh = label, item, tuple(strengths), seed, mesh
        self.artifacts: dict[str, Any] = {}

    def run(self, encode: Encode) -> dict[str, float]:
        names, x, target = self.train.labelled(encode, self.item, self.label)
        _, queries, wanted = self.examples.labelled(encode, self.item, self.label, names)
        strength = self.strengths[0]
        if len(self.strengths) > 1:
            order = np.random.default_rng(self.seed).permutation(len(x))
            held, kept = order[: max(1, len(x) // 5)], order[max(1, len(x) // 5) :]
            path = logistic(x[kept], target[kept], len(names), self.mesh, self.strengths)
            scores = [mean(model(x[held]).argmax(1) == target[held]) for model in path]
            # Of equals the strongest, which overfits least.
            strength = max(zip(scores, self.strengths, strict=True))[1]
        (model,) = logistic(x, target, len(names), self.mesh, [strength])
        predicted = model(queries).argmax(1)
        self.artifacts = {
            "classes": names,
            "labels": wanted,
            "predicted": predicted,
            "weights": model.weights,
            "bias": model.bias,
        }
        return {**class_summary(predicted, wanted), "strength": float(strength), "examples": float(len(wanted))}

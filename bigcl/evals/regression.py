"""How well a number can be read off frozen embeddings."""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from jax.sharding import Mesh

from bigcl.data.tokenizers import Tokenizer
from bigcl.evals import Encode
from bigcl.evals.embedding import Examples
from bigcl.evals.linear import STRENGTHS, ridge
from bigcl.evals.metrics import spearman
from bigcl.registry import ConfigError, Part


class Regression:
    """Ridge regression, its strength chosen by the leave-one-out error on what it is fitted to.

    train: what it is fitted to. None: nested cross-validation, in which each example is predicted by a model that was
        fitted to the other folds.
    value: key of the number; examples where it is None are left out.
    item: the tower's input.  folds, seed: how the examples are split.  strengths: the path.

    r2: of the predictions, `1 - sum (y - f)^2 / sum (y - mean y)^2`.  spearman: their rank correlation with the values
    (0 where either is constant).  mae: their mean absolute error.  After `run`, `artifacts` holds `index` [n], `values`
    [n] and `predicted` [n].
    """

    def __init__(
        self,
        *,
        source: Annotated[Part, "source"],
        train: Annotated[Part, "source"] | None = None,
        transforms: Sequence[Annotated[Part, "transform"]] = (),
        value: str = "value",
        item: str = "image",
        folds: int = 5,
        seed: int = 0,
        strengths: Sequence[float] = STRENGTHS,
        batch: int = 200,
        tokenizer: Tokenizer | None = None,
        mesh: Mesh,
    ):
        if folds < 2:
            raise ConfigError(f"regression.folds: expected 2 or more, got {folds}")
        self.examples = Examples(source, transforms, tokenizer, batch)
        self.train = None if train is None else Examples(train, transforms, tokenizer, batch)
        self.value, self.item, self.folds, self.seed = value, item, folds, seed
        self.strengths, self.mesh = tuple(strengths), mesh
        self.artifacts: dict[str, Any] = {}

    def run(self, encode: Encode) -> dict[str, float]:
        index, x, y = self.rated(self.examples, encode)
        if self.train is not None:
            _, known, values = self.rated(self.train, encode)
            predicted = ridge(known, values[:, None], self.mesh, self.strengths)(x)[:, 0]
        else:
            predicted = self.cross_validated(x, y)
        self.artifacts = {"index": index, "values": y, "predicted": predicted}
        error = float(np.abs(y - predicted).mean())
        return {"r2": r2(y, predicted), "spearman": spearman(y, predicted), "mae": error, "examples": float(len(y))}

    def rated(self, examples: Examples, encode: Encode) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Places [n], embeddings [n, d] and values [n] of the examples that have a value."""
        column = examples.column(self.value)
        index = np.array([i for i, v in enumerate(column) if v is not None], int)
        needed = 1 if self.train is not None and examples is self.examples else max(3, self.folds)
        if len(index) < needed:
            raise ConfigError(f"regression.value: {len(index)} examples have {self.value!r}, fewer than the folds need")
        y = np.array([column[i] for i in index], np.float64)
        return index, examples.embed(encode, self.item)[self.item][index], y

    def cross_validated(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Each value as a model of the other folds predicts it."""
        predicted = np.empty(len(y))
        for held in np.array_split(np.random.default_rng(self.seed).permutation(len(y)), self.folds):
            kept = np.setdiff1d(np.arange(len(y)), held)
            model = ridge(x[kept], y[kept, None], self.mesh, self.strengths)
            predicted[held] = model(x[held])[:, 0]
        return predicted


def r2(values: np.ndarray, predicted: np.ndarray) -> float:
    """The share of the variance that is explained; 0 for values without any."""
    if not np.ptp(values):
        return 0.0
    return float(1 - np.square(values - predicted).sum() / np.square(values - values.mean()).sum())

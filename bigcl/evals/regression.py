"""How well a number can be read off frozen embeddings."""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import scipy.stats
from jax.sharding import Mesh

from bigcl.data.tokenizers import Tokenizer
from bigcl.evals import Encode
from bigcl.evals.embedding import Examples
from bigcl.evals.linear import STRENGTHS, ridge
from bigcl.registry import ConfigError, Part


class Regression:
    """Ridge regression in nested cross-validation: each example is predicted by a model that has not seen it, whose
    strength was chosen by leave-one-out error on its own training folds alone.

    value: key of the number; examples where it is None are left out.
    item: the tower's input.  folds, seed: how the examples are split.  strengths: the path.

    r2: of the out-of-fold predictions, `1 - sum (y - f)^2 / sum (y - mean y)^2`.  spearman: their rank correlation with
    the values (0 where either is constant).  After `run`, `artifacts` holds `index` [n], `values` [n] and `predicted`
    [n].
    """

    def __init__(
        self,
        *,
        source: Annotated[Part, "source"],
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
        self.examples = Examples(source, transforms, tokenizer, batch)
        self.value, self.item, self.folds, self.seed = value, item, folds, seed
        self.strengths, self.mesh = tuple(strengths), mesh
        self.artifacts: dict[str, Any] = {}

    def run(self, encode: Encode) -> dict[str, float]:
        column = self.examples.column(self.value)
        index = np.array([i for i, v in enumerate(column) if v is not None], int)
        if len(index) < max(3, self.folds):
            raise ConfigError(f"regression.value: {len(index)} examples have {self.value!r}, fewer than the folds need")
        y = np.array([column[i] for i in index], np.float64)
        x = self.examples.embed(encode, self.item)[self.item][index]
        predicted = np.empty(len(y))
        for held in np.array_split(np.random.default_rng(self.seed).permutation(len(y)), self.folds):
            kept = np.setdiff1d(np.arange(len(y)), held)
            model = ridge(x[kept], y[kept, None], self.mesh, self.strengths)
            predicted[held] = model(x[held])[:, 0]
        self.artifacts = {"index": index, "values": y, "predicted": predicted}
        return {"r2": r2(y, predicted), "spearman": spearman(y, predicted), "examples": float(len(y))}


def r2(values: np.ndarray, predicted: np.ndarray) -> float:
    """The share of the variance that is explained; 0 for values without any."""
    total = np.square(values - values.mean()).sum()
    return float(1 - np.square(values - predicted).sum() / total) if total else 0.0


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation, ties at their mean rank; 0 where a side is constant."""
    return float(scipy.stats.spearmanr(a, b).statistic) if np.ptp(a) and np.ptp(b) else 0.0

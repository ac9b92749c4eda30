"""Semantic textual similarity, and the like for any two inputs that people have rated."""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import scipy.stats

from bigcl.data.tokenizers import Tokenizer
from bigcl.evals import Encode
from bigcl.evals.embedding import Examples
from bigcl.evals.metrics import per_group
from bigcl.registry import ConfigError, Part


class Similarity:
    """Correlation of the cosine of two inputs with a rated similarity (STS; Cer et al. 2017).

    first, second: keys of the batch, each embedded by the tower of `inputs`: one input for both, or two.
    score: key of the rating; examples where it is None are left out.
    category: key of the subset; the same numbers are then reported for each, and their mean.

    spearman is what STS reports; pearson beside it. After `run`, `artifacts` holds `index`, `cosines` and `scores`, [n]
    each.
    """

    def __init__(
        self,
        *,
        source: Annotated[Part, "source"],
        transforms: Sequence[Annotated[Part, "transform"]] = (),
        first: str = "text_0",
        second: str = "text_1",
        inputs: Sequence[str] = ("text",),
        score: str = "score",
        category: str | None = None,
        batch: int = 200,
        tokenizer: Tokenizer | None = None,
    ):
        if len(inputs) not in (1, 2):
            raise ConfigError(f"similarity.inputs: expected one input or two, got {list(inputs)}")
        self.examples = Examples(source, transforms, tokenizer, batch)
        self.keys = {first: inputs[0], second: inputs[-1]}
        self.score, self.category = score, category
        self.artifacts: dict[str, Any] = {}

    def run(self, encode: Encode) -> dict[str, float]:
        column = self.examples.column(self.score)
        index = np.array([i for i, v in enumerate(column) if v is not None], int)
        scores = np.array([column[i] for i in index], np.float64)
        a, b = self.examples.embed(encode, **self.keys).values()
        cosines = (a[index].astype(np.float64) * b[index]).sum(1)
        self.artifacts = {"index": index, "cosines": cosines, "scores": scores}
        numbers = {**correlations(cosines, scores), "examples": float(len(index))}
        if self.category is not None:
            groups = self.examples.column(self.category)
            kinds = [groups[i] for i in index]
            numbers |= per_group(kinds, lambda members: correlations(cosines[members], scores[members]))
        return numbers


def correlations(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Of ranks and of values; 0 where a side is constant."""
    if len(a) < 2 or not np.ptp(a) or not np.ptp(b):
        return {"spearman": 0.0, "pearson": 0.0}
    return {
        "spearman": float(scipy.stats.spearmanr(a, b).statistic),
        "pearson": float(scipy.stats.pearsonr(a, b).statistic),
    }

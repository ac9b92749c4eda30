"""Clusters of embeddings against classes."""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import scipy.optimize
from jax.sharding import Mesh
from jaxtyping import Int

from bigcl.data.tokenizers import Tokenizer
from bigcl.evals import Encode
from bigcl.evals.embedding import Examples
from bigcl.evals.kmeans import kmeans
from bigcl.evals.metrics import sklearn
from bigcl.registry import Part


class Clustering:
    """k-means with as many clusters as classes (the best of `starts` runs from k-means++).

    label: key of the class; None is left out.  item: the tower's input.

    nmi: mutual information over the mean of the entropies.  ari: Rand index adjusted for chance.  accuracy: with each
    cluster given to one class so that most examples fit (Kuhn 1955).  After `run`, `artifacts` holds `classes`,
    `labels` [n] and `clusters` [n].
    """

    def __init__(
        self,
        *,
        source: Annotated[Part, "source"],
        transforms: Sequence[Annotated[Part, "transform"]] = (),
        label: str = "label",
        item: str = "image",
        starts: int = 10,
        seed: int = 0,
        batch: int = 200,
        tokenizer: Tokenizer | None = None,
        mesh: Mesh,
    ):
        self.examples = Examples(source, transforms, tokenizer, batch)
        self.label, self.item, self.starts, self.seed, self.mesh = label, item, starts, seed, mesh
        self.metrics = sklearn("metrics")
        self.artifacts: dict[str, Any] = {}

    def run(self, encode: Encode) -> dict[str, float]:
        names, x, target = self.examples.labelled(encode, self.item, self.label)
        found = kmeans(x, len(names), self.mesh, starts=self.starts, seed=self.seed)
        self.artifacts = {"classes": names, "labels": target, "clusters": found}
        return {
            "nmi": float(self.metrics.normalized_mutual_info_score(target, found)),
            "ari": float(self.metrics.adjusted_rand_score(target, found)),
            "accuracy": matched_accuracy(target, found),
            "examples": float(len(target)),
        }


def matched_accuracy(target: Int[np.ndarray, "n"], clusters: Int[np.ndarray, "n"]) -> float:
    """The share of examples that are right under the best one-to-one assignment of clusters to classes."""
    size = int(max(target.max(), clusters.max())) + 1
    table = np.bincount(target * size + clusters, minlength=size * size).reshape(size, size)
    return float(table[scipy.optimize.linear_sum_assignment(table, maximize=True)].sum() / len(target))

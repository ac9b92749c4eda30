"""Retrieval in both directions between two inputs of the same examples."""

import functools
from collections.abc import Hashable, Sequence
from typing import Annotated, Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int32, Int64

from bigcl import registry
from bigcl.data.tokenizers import Tokenizer
from bigcl.evals import Encode
from bigcl.evals.embedding import embed, labels
from bigcl.evals.ranks import ranks
from bigcl.registry import Part


class Retrieval:
    """Finds for each `query` its `item` among those of all examples of the source, and the other way round.

    label: key of the example; examples of equal label are right answers to one another, and the best of them counts.
        None: each example is right for itself alone (so are those whose label is None).
    ks: reported are recall@k, the share of queries with a right answer among the first k, the median rank, and the mean
        reciprocal rank, as `text_to_image/recall@1`, and how many `examples` there are. Ranks start at 1, and ties
        count against the model.
    batch: rows of a global batch while embedding.

    After `run`, `artifacts` holds the embeddings [N, D] by input name and the ranks [N] by direction; row i is
    example i.
    """

    def __init__(
        self,
        *,
        source: Annotated[Part, "source"],
        transforms: Sequence[Annotated[Part, "transform"]] = (),
        query: str = "text",
        item: str = "image",
        label: str | None = None,
        ks: Sequence[int] = (1, 5, 10),
        batch: int = 200,
        tokenizer: Tokenizer | None = None,
        mesh: Mesh,
    ):
        self.source = registry.build("source", source)
        self.transforms = [registry.build("transform", part, tokenizer=tokenizer) for part in transforms]
        self.query, self.item, self.label, self.ks, self.batch, self.mesh = query, item, label, tuple(ks), batch, mesh
        self.artifacts: dict[str, Any] = {}

    def run(self, encode: Encode) -> dict[str, float]:
        found = embed(self.source, self.transforms, encode, inputs=(self.query, self.item), batch=self.batch)
        self.artifacts = dict(found)
        numbers: dict[str, float] = {}
        for a, b in ((self.query, self.item), (self.item, self.query)):
            rank = self.artifacts[f"{a}_to_{b}"] = ranks(found[a], found[b], self.ids, self.ids, self.mesh)
            numbers |= {f"{a}_to_{b}/{name}": value for name, value in summary(rank, self.ks).items()}
        return numbers

    @functools.cached_property
    def ids(self) -> Int32[np.ndarray, "n"]:
        """A number for each example, equal for those that are right for one another; read once."""
        return group([None] * len(self.source) if self.label is None else labels(self.source, self.label))


def summary(rank: Int64[np.ndarray, "n"], ks: Sequence[int]) -> dict[str, float]:
    """What is reported of the ranks of one direction."""
    return {
        **{f"recall@{k}": float(np.mean(rank <= k)) for k in ks},
        "median_rank": float(np.median(rank)),
        "mean_reciprocal_rank": float(np.mean(1 / rank)),
    }


def group(values: Sequence[Hashable | None]) -> Int32[np.ndarray, "n"]:
    """A number for each distinct value; each None gets its own."""
    numbers: dict[Any, int] = {}
    keys = [i if value is None else (value,) for i, value in enumerate(values)]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int32)

"""Composed retrieval: a picture and a text that says how another differs from it."""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from bigcl.data.tokenizers import Tokenizer
from bigcl.evals import Encode
from bigcl.evals.embedding import Examples, unit
from bigcl.evals.gallery import Gallery
from bigcl.registry import Part


class Composed:
    """Finds the target for a query of two inputs (Vo et al. 2019; FashionIQ, CIRR, CIRCO).

    source: queries, with the targets' keys at `target` (one or a list) and, where `reference` names a key, the picture
        that the query starts from, which is then not offered to it, as in CIRR.
    items: the gallery, each item's own key at `key`.  item_transforms: how its items are prepared.
    compose: "sum", the normalised sum of the embeddings of `query`, or the name of an output of the model that embeds
        both together.  weights: of the embeddings in the sum; 1 and -1 is "this, but without that" (ALIGN, Jia et al.
        2021). None: 1 each.

    recall@k: the share of queries with a target among the first k; found@k, ndcg@k, median_rank and
    mean_reciprocal_rank as for `retrieval`. After `run`, `artifacts` holds `asked` [n], `ranks` [n], and `places` and
    `hits` [n, k] of the first items.
    """

    def __init__(
        self,
        *,
        source: Annotated[Part, "source"],
        items: Annotated[Part, "source"],
        transforms: Sequence[Annotated[Part, "transform"]] = (),
        item_transforms: Sequence[Annotated[Part, "transform"]] = (),
        query: Sequence[str] = ("image", "text"),
        item: str = "image",
        compose: str = "sum",
        weights: Sequence[float] | None = None,
        target: str = "target",
        reference: str | None = None,
        key: str = "id",
        ks: Sequence[int] = (1, 5, 10, 50),
        batch: int = 200,
        tokenizer: Tokenizer | None = None,
        mesh: Mesh,
    ):
        self.examples = Examples(source, transforms, tokenizer, batch)
        self.gallery = Gallery(Examples(items, item_transforms, tokenizer, batch), item, key, mesh)
        self.query, self.compose, self.target, self.reference = tuple(query), compose, target, reference
        self.weights = weights if compose == "sum" else None
        self.ks = tuple(ks)
        self.artifacts: dict[str, Any] = {}

    def run(self, encode: Encode) -> dict[str, float]:
        outputs = self.query if self.compose == "sum" else (self.compose,)
        found = self.examples.embed(encode, *outputs)
        numbers, self.artifacts = self.gallery.search(
            combine([found[name] for name in outputs], self.weights),
            encode,
            right=self.examples.column(self.target),
            hidden=None if self.reference is None else self.examples.column(self.reference),
            ks=self.ks,
        )
        return numbers


def combine(
    parts: Sequence[Float[np.ndarray, "n d"]], weights: Sequence[float] | None = None
) -> Float[np.ndarray, "n d"]:
    """Queries of several embeddings each: the sum of the normalised parts, by weight, normalised."""
    weights = [1.0] * len(parts) if weights is None else weights
    return unit(np.sum([w * unit(x) for w, x in zip(weights, parts, strict=True)], axis=0))

"""Ranking of all items for each user or session."""

from collections.abc import Sequence
from typing import Annotated, Any

from jax.sharding import Mesh

from bigcl.data.tokenizers import Tokenizer
from bigcl.evals import Encode
from bigcl.evals.embedding import Examples
from bigcl.evals.gallery import Gallery
from bigcl.registry import Part


class Recommendation:
    """Ranks every item of the catalogue for each query, not a sample of negatives (Krichene and Rendle 2020).

    source: queries, with the keys of the items that follow at `target` (one or a list), and, where `seen` names a key,
        those that are not to be recommended again.
    items: the catalogue, each item's own key at `key`.  item_transforms: how items are prepared.
    query, item: the towers' inputs.

    hit_rate@k: the share of queries with a target among the first k.  ndcg@k, for the largest k, and
    mean_reciprocal_rank and median_rank of the best target, over the whole catalogue; found@k, the share of a query's
    targets among the first k, where some have several. Ties count against the model. Queries without target do not ask.

    After `run`, `artifacts` holds `asked` [n], `ranks` [n], and `places` and `hits` [n, k] of the first items.
    """

    def __init__(
        self,
        *,
        source: Annotated[Part, "source"],
        items: Annotated[Part, "source"],
        transforms: Sequence[Annotated[Part, "transform"]] = (),
        item_transforms: Sequence[Annotated[Part, "transform"]] = (),
        query: str = "user",
        item: str = "item",
        target: str = "target",
        seen: str | None = None,
        key: str = "id",
        ks: Sequence[int] = (1, 5, 10),
        batch: int = 200,
        tokenizer: Tokenizer | None = None,
        mesh: Mesh,
    ):
        self.examples = Examples(source, transforms, tokenizer, batch)
        self.gallery = Gallery(Examples(items, item_transforms, tokenizer, batch), item, key, mesh)
        self.query, self.target, self.seen, self.ks = query, target, seen, tuple(ks)
        self.artifacts: dict[str, Any] = {}

    def run(self, encode: Encode) -> dict[str, float]:
        numbers, self.artifacts = self.gallery.search(
            self.examples.embed(encode, self.query)[self.query],
            encode,
            right=self.examples.column(self.target),
            hidden=None if self.seen is None else self.examples.column(self.seen),
            ks=self.ks,
        )
        return {name.replace("recall@", "hit_rate@"): value for name, value in numbers.items()}

"""A gallery of items with keys, searched by queries that name the keys they should find."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32, Int64

from bigcl.evals import Encode
from bigcl.evals.embedding import Examples
from bigcl.evals.metrics import hit_summary, plain, rank_summary, several
from bigcl.evals.ranks import even, first, ranks
from bigcl.registry import ConfigError


class Gallery:
    """Items, each with its own value at `key`."""

    def __init__(self, items: Examples, item: str, key: str, mesh: Mesh):
        self.items, self.item, self.key, self.mesh = items, item, key, mesh

    def places(self, values: Sequence[Any]) -> list[list[int]]:
        """Where the items are that each of `values` names: one key, a list of them, or None."""
        keys = [plain(v) for v in self.items.column(self.key)]
        at = {key: i for i, key in enumerate(keys)}
        if len(at) < len(keys):
            twice = next(key for i, key in enumerate(keys) if at[key] != i)
            raise ConfigError(f"evaluator: two items have the key {twice!r} at {self.key!r}")
        lists = [several(v) for v in values]
        for each in lists:
            for key in each:
                if key not in at:
                    raise ConfigError(f"evaluator: no item has the key {key!r} at {self.key!r}")
        return [sorted({at[key] for key in each}) for each in lists]

    def search(
        self,
        queries: Float32[np.ndarray, "q d"],
        encode: Encode,
        *,
        right: Sequence[Any],
        hidden: Sequence[Any] | None,
        ks: Sequence[int],
    ) -> tuple[dict[str, float], dict[str, Any]]:
        """Numbers, and the arrays behind them: `asked`, places of the queries that name an item to find, and the rank
        of the best of these items.

        right: keys to find, for each query.  hidden: keys that are not offered to it, unless they are to be found.
        """
        found = self.places(right)
        away = self.places([None] * len(found) if hidden is None else hidden)
        away = [sorted(set(h) - set(r)) for h, r in zip(away, found, strict=True)]
        asked = np.array([i for i, r in enumerate(found) if r], int)
        if not len(asked):
            raise ConfigError("evaluator: no query names an item to find")
        items = self.items.embed(encode, self.item)[self.item]
        ids = np.full(len(asked), -1, np.int32), np.arange(len(items), dtype=np.int32)
        lists = {"right": even([found[i] for i in asked]), "hidden": even([away[i] for i in asked])}
        rank: Int64[np.ndarray, "q"] = ranks(queries[asked], items, *ids, self.mesh, **lists)
        places, _, hits = first(queries[asked], items, *ids, self.mesh, k=max(ks), **lists)
        positives = np.array([len(found[i]) for i in asked])
        numbers = {**rank_summary(rank, ks), **hit_summary(hits, positives, ks), "queries": float(len(asked))}
        return numbers, {"asked": asked, "ranks": rank, "places": places, "hits": hits}

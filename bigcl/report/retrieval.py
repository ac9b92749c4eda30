"""Who finds whom in a gallery, and which examples of it are shown."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from bigcl.report.gallery import Gallery

SHOWN = 5  # best targets kept for each query
TILE = 1024  # queries compared at a time, so that memory grows with N, not N^2


@dataclasses.dataclass(frozen=True)
class Search:
    """All queries of one side against all targets of the other.

    rank: place of the best right target, from 1; ties count against it.
    right: that target.
    best, share: the first targets, best first, and what the softmax over all targets gives them.
    """

    rank: Int[np.ndarray, "n"]
    right: Int[np.ndarray, "n"]
    best: Int[np.ndarray, "n k"]
    share: Float[np.ndarray, "n k"]

    def recall(self, k: int) -> float:
        """Share of queries whose right target is among the first `k`."""
        return float(np.mean(self.rank <= k))


def search(
    queries: Float[np.ndarray, "n d"], targets: Float[np.ndarray, "n d"], captions: Sequence[str], scale: float
) -> Search:
    """Looks for every query's own target. Pairs of equal caption are right for each other."""
    meaning = np.unique(np.asarray(captions), return_inverse=True)[1]
    starts = range(0, len(queries), TILE)
    parts = [search_tile(queries[i : i + TILE], targets, meaning[i : i + TILE], meaning, scale) for i in starts]
    return Search(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def search_tile(
    queries: Float[np.ndarray, "q d"],
    targets: Float[np.ndarray, "n d"],
    wanted: Int[np.ndarray, "q"],
    meaning: Int[np.ndarray, "n"],
    scale: float,
) -> tuple[np.ndarray, ...]:
    """The fields of `Search` for some of the queries."""
    rows = np.arange(len(queries))
    score = queries @ targets.T
    positive = wanted[:, None] == meaning
    score = np.where(positive, np.nextafter(score, np.float32(-np.inf)), score)  # a tie is no find
    order = np.argsort(-score, axis=1, kind="stable")
    place = np.argmax(np.take_along_axis(positive, order, axis=1), axis=1)
    best = order[:, :SHOWN]
    softmax = np.exp(scale * (score - score.max(axis=1, keepdims=True)))
    softmax /= softmax.sum(axis=1, keepdims=True)
    return place + 1, order[rows, place], best, np.take_along_axis(softmax, best, axis=1)


@dataclasses.dataclass(frozen=True)
class Tier:
    """Queries of like success: their share of all queries, and the few that are shown."""

    title: str
    share: float
    queries: list[int]


def tiers(found: Search, groups: Sequence[str | None], count: int) -> list[Tier]:
    """Hits, near misses and failures, with up to `count` examples each; tiers without queries are left out."""
    rank = found.rank
    parts = {
        "Found first": rank == 1,
        f"Among the best {SHOWN}": (rank > 1) & (rank <= SHOWN),
        "Missed": rank > SHOWN,
    }
    return [
        Tier(title, float(mask.mean()), spread(np.flatnonzero(mask), groups, count))
        for title, mask in parts.items()
        if mask.any()
    ]


def spread(rows: Int[np.ndarray, "m"], groups: Sequence[str | None], count: int) -> list[int]:
    """`count` of `rows` in their order, one of each group before a second of any. No chance and no choice by hand."""
    seen: dict[str | None, int] = {}
    turns = []
    for row in rows.tolist():
        seen[groups[row]] = seen.get(groups[row], 0) + 1
        turns.append((seen[groups[row]], row))
    return [row for _, row in sorted(turns)[:count]]


def recall_by_group(found: Search, groups: Sequence[str | None], most: int = 8) -> list[tuple[str, float, int]]:
    """Recall at 1 and the number of queries of the `most` largest groups, largest first."""
    hits: dict[str, list[bool]] = {}
    for group, rank in zip(groups, found.rank, strict=True):
        if group:
            hits.setdefault(group, []).append(bool(rank == 1))
    largest = sorted(hits.items(), key=lambda item: -len(item[1]))[:most]
    return [(group, sum(hit) / len(hit), len(hit)) for group, hit in largest]


def similarity_densities(
    gallery: Gallery, bins: int = 48, sample: int = 1000
) -> tuple[Float[np.ndarray, "bins"], Float[np.ndarray, "bins"], Float[np.ndarray, "bins"]]:
    """Bin centres of cosine similarity, and the shares of right and of wrong pairs there, among `sample` pairs."""
    cosine = gallery.texts[:sample] @ gallery.images[:sample].T
    captions = np.asarray(gallery.captions[:sample])
    right = captions[:, None] == captions
    edges = np.linspace(cosine.min(), cosine.max() + 1e-6, bins + 1)
    heights = [np.histogram(cosine[mask], edges)[0] / max(mask.sum(), 1) for mask in (right, ~right)]
    return (edges[:-1] + edges[1:]) / 2, heights[0], heights[1]

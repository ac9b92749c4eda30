"""Several sources in one stream, by weight."""

import itertools
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from bigcl import registry
from bigcl.data.order import Interleave, make_order
from bigcl.data.sources import Example, Source, is_remote, place, source_extent, source_identity
from bigcl.registry import Part

_PRECISION = 2**31
_STRIDE = 0x9E3779B97F4A7C15  # between the seeds of the sources


class Expected(NamedTuple):
    """What a run takes of one source. weight: its share of all examples."""

    name: str
    examples: int
    weight: float
    epochs: float


class Mixture:
    """Examples of several sources, one source after the other; the stream of training takes them by weight.

    Each source has its own shuffled order and goes through all of it before anything comes a second time, at a pace
    set by its weight. Batches hold the number of each row's source as `source`, int32 [b].

    sources: by name.
    weights: by name, in any unit: 3 is three times as many examples as 1. None: in proportion to their sizes, so that
        all of them end their epochs together.
    homogeneous: every batch is of one source, and weights count batches.
    """

    def __init__(
        self,
        sources: Mapping[str, Annotated[Part, "source"]],
        weights: Mapping[str, float] | None = None,
        homogeneous: bool = False,
    ):
        if not sources:
            raise ValueError("mixture.sources: none")
        self.sources: dict[str, Source] = {k: registry.build("source", part) for k, part in sources.items()}
        self.remote = any(map(is_remote, self.sources.values()))
        sizes = [len(source) for source in self.sources.values()]
        self.first: Int64[np.ndarray, " sources"] = np.array([0, *itertools.accumulate(sizes)], np.int64)
        self.weights = dict(zip(sources, sizes, strict=True)) if weights is None else dict(weights)
        if unknown := [k for k in self.weights if k not in sources]:
            raise ValueError(f"mixture.weights.{unknown[0]}: no such source; {registry.nearest(unknown[0], sources)}")
        for name in sources:
            if not self.weights.get(name, 0) > 0:
                raise ValueError(f"mixture.weights.{name}: expected a number above 0, got {self.weights.get(name)}")
        self.homogeneous = homogeneous
        self.name = f"mixture of {', '.join(sources)}"
        self.identity = [source_identity(source) for source in self.sources.values()]
        self.extent = [source_extent(source) for source in self.sources.values()]
        self.faults = [fault for source in self.sources.values() for fault in getattr(source, "faults", ())]
        credits = dict.fromkeys(getattr(source, "attribution", None) for source in self.sources.values())
        self.attribution = "\n".join(text for text in credits if text) or None

    def __len__(self) -> int:
        return int(self.first[-1])

    def __getitem__(self, index: int) -> Example:
        source, own = self.part(index)
        return dict(source[own])

    def which(self, index: Int64[np.ndarray, " n"]) -> Int32[np.ndarray, " n"]:
        """The number of each example's source."""
        return (np.searchsorted(self.first, index, "right") - 1).astype(np.int32)

    def part(self, index: int) -> tuple[Source, int]:
        """The source of an example, and its index there."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name}: index {index} of {len(self)} examples")
        number = int(self.which(np.array([index]))[0])
        return list(self.sources.values())[number], index - int(self.first[number])

    def place(self, index: int) -> tuple[str | None, int | None]:
        """File and byte of an example."""
        return place(*self.part(index))

    def order(self, *, seed: int, batch: int, **options: Any) -> Interleave:
        """The order of its examples in training, where each source has its own."""
        orders = [
            make_order(source, seed=seed + number * _STRIDE, batch=batch, **options)
            for number, source in enumerate(self.sources.values())
        ]
        shares, rest = [], sum(Fraction(str(w)) for w in self.weights.values())
        for name in self.sources:
            weight = Fraction(str(self.weights[name]))
            shares.append(max(Fraction(1, _PRECISION), (weight / rest).limit_denominator(_PRECISION)))
            rest -= weight
        return Interleave(orders, self.first[:-1].tolist(), shares, batch if self.homogeneous else 1)

    def expect(self, steps: int, batch: int) -> list[Expected]:
        """What so many steps take of each source."""
        order = self.order(seed=0, batch=batch)
        counts = order.counts(np.array([steps * batch // order.unit]))[:, 0] * order.unit
        sizes = np.diff(self.first)
        total = sum(self.weights.values())
        return [
            Expected(name, int(size), self.weights[name] / total, count / size)
            for name, size, count in zip(self.sources, sizes, counts.tolist(), strict=True)
        ]


def table(rows: list[Expected]) -> list[str]:
    """What a run takes of each source, as lines."""
    width = max(len(row.name) for row in rows)
    lines = [f"  {'source':<{width}}{'examples':>16}{'weight':>10}{'epochs':>10}"]
    return lines + [f"  {r.name:<{width}}{r.examples:>16,}{r.weight:>10.2%}{r.epochs:>10.2f}" for r in rows]

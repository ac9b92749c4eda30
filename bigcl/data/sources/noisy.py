"""A share of the pairs of a source, and captions that belong to others: how much data, against how clean."""

from typing import Annotated

import numpy as np

from bigcl import registry
from bigcl.data.sources import Example, source_extent, source_identity, source_name
from bigcl.registry import Part


class Noisy:
    """Some examples of a source, drawn by `seed` and in that order, of which some have the text of another.

    keep: the share of examples that there are.
    swap: the probability of each to have, for good, the text of another; those that have exchange theirs in a circle.
    key: where the text is.
    """

    def __init__(
        self, source: Annotated[Part, "source"], keep: float = 1.0, swap: float = 0.0, key: str = "text", seed: int = 0
    ):
        if not (0 < keep <= 1 and 0 <= swap <= 1):
            raise ValueError(f"noisy: expected keep in (0, 1] and swap in [0, 1], got {keep} and {swap}")
        self.source, self.key = registry.build("source", source), key
        rng = np.random.Generator(np.random.Philox(key=seed))
        self.index = rng.permutation(len(self.source))[: max(1, round(keep * len(self.source)))]
        self.text_of = np.arange(len(self.index))
        moved = np.flatnonzero(rng.random(len(self.index)) < swap)
        self.text_of[moved] = np.roll(moved, 1)
        self.name = f"{keep:.0%} of {source_name(self.source)}, {swap:.0%} of the texts exchanged, seed {seed}"
        self.identity, self.extent = (
            [of(self.source), keep, swap, key, seed] for of in (source_identity, source_extent)
        )
        self.attribution = getattr(self.source, "attribution", None)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> Example:
        example = dict(self.source[int(self.index[index])])
        other = int(self.text_of[index])
        if other != index % len(self):
            example[self.key] = self.source[int(self.index[other])][self.key]
        return example

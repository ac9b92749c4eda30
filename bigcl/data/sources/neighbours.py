"""Examples with those that are hard to tell from them."""

import hashlib
import json
import pathlib
from typing import Annotated

import numpy as np

from bigcl import registry
from bigcl.data.sources import Example, place, source_extent, source_identity, source_name
from bigcl.registry import Part


class Neighbours:
    """Pairs of an example and one near it, one after the other: NegCLIP's hard images (Yuksekgonul et al. 2023).

    Of n examples with K neighbours each, items 2j and 2j + 1 are example j modulo n and its neighbour number j / n, so
    each pass over the source has each neighbour of each example once. With `data.block` = 2 and `data.window` half the
    batch, both are rows of the same batch, which has so many anchors.

    file: JSON lines with `index` and `neighbours`, numbers of examples of `source`, as `python -m bigcl.data
        neighbours` writes them. Raises ValueError for numbers that there are not, or lines of other lengths.
    """

    def __init__(self, source: Annotated[Part, "source"], file: str):
        self.source = registry.build("source", source)
        self.name = f"{source_name(self.source)} with neighbours of {file}"
        lines = [json.loads(line) for line in pathlib.Path(file).read_text("utf-8").splitlines()]
        widths = {len(line["neighbours"]) for line in lines}
        if len(widths) != 1 or widths == {0}:
            raise ValueError(f"{file}: expected as many neighbours on each line, one or more, got {sorted(widths)}")
        self.index = np.array([[line["index"], *line["neighbours"]] for line in lines], np.int64)
        if self.index.min() < 0 or self.index.max() >= len(self.source):
            raise ValueError(f"{file}: example {self.index.max()} of {len(self.source)} in {source_name(self.source)}")
        recipe = hashlib.sha256(self.index.tobytes()).hexdigest()
        self.identity, self.extent = ([of(self.source), recipe] for of in (source_identity, source_extent))

    def __len__(self) -> int:
        return 2 * len(self.index) * (self.index.shape[1] - 1)

    def __getitem__(self, index: int) -> Example:
        return dict(self.source[self.example(index)])

    def example(self, index: int) -> int:
        """Which example of the source an item is."""
        pair, near = divmod(index, 2)
        turn, anchor = divmod(pair, len(self.index))
        return int(self.index[anchor, near * (1 + turn)])

    def place(self, index: int) -> tuple[str | None, int | None]:
        """File and byte of an example."""
        return place(self.source, self.example(index))

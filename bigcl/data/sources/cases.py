"""Cases of a test, made of the examples of another source."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from tqdm.auto import tqdm

from bigcl import registry
from bigcl.data.sources import (
    BadRecord,
    Example,
    metadata,
    place,
    source_extent,
    source_identity,
    source_name,
)
from bigcl.data.transforms import Transform
from bigcl.registry import Part


class Cases:
    """The examples of a source with what transforms make of them, drawn once and for all; those that the transforms
    call bad records, such as captions of which `swap_words` finds no two words to exchange, are left out. So evaluators
    have a fixed test of them, and its fields can be read.

    reads: the fields that the transforms read, dots reaching into nested dicts; what they give joins the example. Read
        once, when the source is opened.
    """

    def __init__(
        self,
        source: Annotated[Part, "source"],
        transforms: Sequence[Annotated[Part, "transform"]],
        reads: Sequence[str] = ("text",),
        seed: int = 0,
    ):
        self.source = registry.build("source", source)
        self.name = f"cases of {source_name(self.source)}"
        steps: list[Transform] = [registry.build("transform", part) for part in transforms]
        columns = metadata(self.source, reads, 0, len(self.source))
        self.made: list[Mapping[str, Any]] = []
        self.index: list[int] = []
        for i in tqdm(range(len(self.source)), desc=self.name, unit=" examples", delay=1, disable=None):
            case, rng = {k: columns[k][i] for k in reads}, np.random.Generator(np.random.Philox(key=[seed, i]))
            try:
                for step in steps:
                    case = step(case, rng)
            except BadRecord:
                continue
            self.made.append(case)
            self.index.append(i)
        if not self.index:
            raise ValueError(f"{source_name(self.source)}: none of {len(self.source):,} examples makes a case")
        recipe = [[dict(part) for part in transforms], list(reads), seed]
        self.identity, self.extent = ([of(self.source), *recipe] for of in (source_identity, source_extent))

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> Example:
        return {**self.source[self.index[index]], **self.made[index]}

    def place(self, index: int) -> tuple[str | None, int | None]:
        """File and byte of an example."""
        return place(self.source, self.index[index])

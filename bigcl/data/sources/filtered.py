"""The examples of another source for which an expression over their fields is true."""

import pathlib
from typing import Annotated, Any

import numpy as np
from jaxtyping import Int64
from tqdm.auto import tqdm

from bigcl import registry
from bigcl.data.cache import prepare
from bigcl.data.expression import Expression
from bigcl.data.sources import Example, metadata, place, source_extent, source_identity, source_name
from bigcl.registry import Part

_TOGETHER = 2**16
_INDEX = "index.npy"


class Filtered:
    """Some examples of a source, in its order.

    filter: which, as in "width >= 200 and language in ['en', 'de']"; see `bigcl.data.expression`. Found once and kept
        in the cache. Where an example cannot be read, its fields are null.
    """

    def __init__(self, source: Annotated[Part, "source"], filter: str):
        expression = Expression(filter)
        if not expression.names:
            raise ValueError(f"filtered.filter: {filter!r} reads no field")
        self.source = registry.build("source", source)
        self.name = f"{source_name(self.source)} where {filter}"
        self.attribution = getattr(self.source, "attribution", None)
        if hasattr(self.source, "order"):
            raise ValueError("filtered.source: a mixture has an order of its own; filter its sources instead")
        self.faults = getattr(self.source, "faults", ())
        self.identity, self.extent = ([of(self.source), filter] for of in (source_identity, source_extent))
        recipe = {"source": source, "identity": self.identity, "layout": 1}
        self.folder = prepare("filtered", recipe, lambda folder: self.build(expression, folder))
        self.open()
        if not len(self.index):
            raise ValueError(f"no example of {len(self.source):,} in {source_name(self.source)} has {filter}")

    def build(self, expression: Expression, folder: pathlib.Path) -> None:
        """Writes the indices of the examples that pass."""
        size, passing, never = len(self.source), [np.zeros(0, np.int64)], set(expression.names)
        with tqdm(
            total=size, desc=f"filtering {source_name(self.source)}", unit=" examples", delay=1, disable=None
        ) as bar:
            for start in range(0, size, _TOGETHER):
                stop = min(start + _TOGETHER, size)
                columns = metadata(self.source, expression.names, start, stop)
                never = {name for name in never if all(v is None for v in columns[name])}
                passing.append(start + np.flatnonzero(expression.holds(columns)))
                bar.update(stop - start)
        if never and size:
            raise ValueError(f"{source_name(self.source)}: no example has a field {sorted(never)[0]!r}")
        np.save(folder / _INDEX, np.concatenate(passing))

    def open(self) -> None:
        """Maps the indices."""
        self.index: Int64[np.ndarray, " n"] = np.load(self.folder / _INDEX, mmap_mode="r")

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "index"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.open()

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name}: index {index} of {len(self)} examples")
        return dict(self.source[int(self.index[index])])

    def place(self, index: int) -> tuple[str | None, int | None]:
        """File and byte of an example."""
        return place(self.source, int(self.index[index]))

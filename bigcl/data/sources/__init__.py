"""Sources: examples by index.

A source is any object with

    len(source) -> int
    source[i] -> dict[str, Any]     an example: numpy arrays, numbers, bytes, str, and lists or dicts of these

that can be read from several threads and pickled (worker processes open it again). A `name` attribute, if there is one,
says in errors and cache keys which data it is. Constructors prepare what is missing and open; no source holds a
position.

`source[i]` raises `BadRecord` for an example that is there but cannot be used, now or later; any other error is one of
the machine, the network or the program. A source that learns already when it opens that some of its data cannot be read
lists it in an attribute `faults` (a sequence of BadRecord), and counts without it.
"""

from collections.abc import Mapping
from typing import Any, Protocol

Example = dict[str, Any]


class Source(Protocol):
    """Random access to examples."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Mapping[str, Any]: ...


class BadRecord(ValueError):
    """An example that is broken itself, raised by sources and by transforms that decode; a run can do without it.

    source: name of the source.
    key: name of the example in it.
    shard, offset: the file, and the byte in it.
    reason: what is wrong, in words without the place.

    A transform knows the reason alone; whoever calls it knows the rest.
    """

    def __init__(
        self,
        source: str | None = None,
        key: str | None = None,
        shard: str | None = None,
        offset: int | None = None,
        reason: str = "",
    ):
        super().__init__(source, key, shard, offset, reason)  # all of it, for pickling
        self.source, self.key, self.shard, self.offset, self.reason = source, key, shard, offset, reason

    def __str__(self) -> str:
        offset = None if self.offset is None else f"byte {self.offset}"
        place = [part for part in (self.source, self.shard, offset, self.key) if part is not None]
        return ": ".join([", ".join(place), self.reason] if place else [self.reason])


def source_name(source: Source) -> str:
    """What to call a source in a message."""
    return getattr(source, "name", type(source).__name__)

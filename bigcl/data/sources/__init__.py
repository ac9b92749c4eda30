"""Sources: examples by index.

A source is any object with

    len(source) -> int
    source[i] -> dict[str, Any]     an example: numpy arrays, numbers, bytes, str, and lists or dicts of these

that can be read from several threads and pickled (worker processes open it again). A `name` attribute, if there is one,
says in errors and cache keys which data it is. Constructors prepare what is missing and open; no source holds a
position.
"""

from collections.abc import Mapping
from typing import Any, Protocol

Example = dict[str, Any]


class Source(Protocol):
    """Random access to examples."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Mapping[str, Any]: ...


def source_name(source: Source) -> str:
    """What to call a source in a message."""
    return getattr(source, "name", type(source).__name__)

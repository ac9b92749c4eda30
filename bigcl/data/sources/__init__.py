"""Sources: examples by index.

A source is any object with

    len(source) -> int
    source[i] -> dict[str, Any]     an example: numpy arrays, numbers, bytes, str, and lists or dicts of these

that can be read from several threads and pickled (worker processes open it again). A `name` attribute, if there is one,
says in errors and cache keys which data it is, and `identity`, plain data, in which state they are;
`extent`, plain data, is the same for a copy of the data elsewhere, and other for other files or shards. Constructors
prepare what is missing and open; no source holds a position.

`source[i]` raises `BadRecord` for an example that is there but cannot be used, now or later; any other error is one of
the machine, the network or the program. A source that learns already when it opens that some of its data cannot be read
lists it in an attribute `faults` (a sequence of BadRecord), and counts without it.

A source that can read a few fields of many examples without the pictures also has

    source.metadata(names, start, stop) -> {name: values}      None where an example lacks the field or cannot be read

and one that knows where an example lies

    source.place(index) -> (shard, offset)                     the file, and the byte in it; None if unknown

and one whose reads wait for a network says so by `remote = True`, and is read by several threads at once; one that has
another in `source` is as remote as that.
"""

import collections
import concurrent.futures
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

Example = dict[str, Any]
_READERS = 32


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


def place(source: Source, index: int) -> tuple[str | None, int | None]:
    """File and byte of an example, where the source knows them."""
    return source.place(index) if hasattr(source, "place") else (None, None)


def is_remote(source: Source) -> bool:
    """Whether reading an example waits for a network."""
    return getattr(source, "remote", False) or (hasattr(source, "source") and is_remote(source.source))


def reads(source: Source, indices: Iterable[int]) -> Iterator[Example | BadRecord]:
    """Examples in the order of their indices; in the place of a bad record its error. Of a remote source, so many at
    once that what one waits for the network costs the others nothing."""

    def read(index: int) -> Example | BadRecord:
        try:
            return dict(source[index])
        except BadRecord as error:
            return error
        except Exception as error:
            error.add_note(f"in the source, for example {index} of {source_name(source)}")
            raise

    if not is_remote(source):
        yield from map(read, indices)
        return
    pool, ahead = readers(os.getpid()), collections.deque[concurrent.futures.Future[Example | BadRecord]]()
    for index in indices:
        ahead.append(pool.submit(read, index))
        if len(ahead) == _READERS:
            yield ahead.popleft().result()
    for future in ahead:
        yield future.result()


@functools.cache
def readers(process: int) -> concurrent.futures.ThreadPoolExecutor:
    """The threads of a process that read what is remote; a forked process has none of them, and so its own."""
    return concurrent.futures.ThreadPoolExecutor(_READERS, "reader")


def source_identity(source: Source) -> Any:
    """Plain data that changes with the content of a source, as far as the source can tell."""
    return [source_name(source), len(source), getattr(source, "identity", None)]


def source_extent(source: Source) -> Any:
    """Plain data that copies of a source in other folders, or of another age, have in common, and other data do not, as
    far as the source can tell without reading them."""
    return [len(source), getattr(source, "extent", None)]


def metadata(source: Source, names: Iterable[str], start: int, stop: int) -> Mapping[str, Sequence[Any]]:
    """Fields of examples start to stop - 1, by name; dots reach into nested dicts. None where an example cannot be
    read.

    Raises ValueError, naming a field that the data lack, if the source can tell.
    """
    if hasattr(source, "metadata"):
        return source.metadata(list(names), start, stop)
    return pick_fields((readable(source.__getitem__, index) for index in range(start, stop)), names)


def readable(read: Callable[[int], Mapping[str, Any]], index: int) -> Mapping[str, Any]:
    """An example, or nothing if it is a bad record."""
    try:
        return read(index)
    except BadRecord:
        return {}


def pick_fields(examples: Iterable[Mapping[str, Any]], names: Iterable[str]) -> Mapping[str, Sequence[Any]]:
    """Columns of examples; None where one lacks the field."""
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for example in examples:
        for name, values in columns.items():
            value: Any = example
            for part in name.split("."):
                value = value.get(part) if isinstance(value, Mapping) else None
            values.append(value)
    return columns

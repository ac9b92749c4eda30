"""Parquet files: pictures in a column, or their names."""

import collections
import concurrent.futures
import functools
import os
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from bigcl.data import storage
from bigcl.data.arrow import arrow_module, check_columns, row_example, table_metadata
from bigcl.data.records import File, NamedFiles, extent, find_files, fingerprint, is_remote, joined
from bigcl.data.sources import BadRecord, Example
from bigcl.data.storage import StorageError

MIB = 2**20
_FOOTERS = 128  # kept at a time


class Parquet:
    """The rows of Parquet files, in the order of the sorted file names.

    Parquet is read by row groups, so an example costs its whole group, unless that was read not long ago. In shuffled
    order that is every time, once the data outgrow the cache: convert them first (`python -m bigcl.data convert`).

    paths: a folder (its *.parquet), a glob, or a list of files, folders and globs.
    columns: what is read; None for all. Those that are not needed cost time.
    files, root: columns that name files, whose contents become fields; see `NamedFiles`. {bytes, path}, as Hugging Face
        writes pictures, needs no entry here: it becomes the bytes.
    cache: MiB of row groups, uncompressed, that each process keeps in memory.
    """

    def __init__(
        self,
        paths: str | Sequence[str],
        columns: Sequence[str] | None = None,
        files: Mapping[str, str] = {},
        root: str | None = None,
        cache: int = 512,
    ):
        self.name = f"parquet {joined(paths)}"
        self.files, self.named = find_files(paths, "*.parquet"), NamedFiles(files, root)
        self.remote = is_remote(self.files, self.named)
        self.identity = [fingerprint(self.files), list(columns or ())]
        self.extent = [extent((f.path, f.size) for f in self.files), list(columns or ())]
        self.columns = None if columns is None else [*dict.fromkeys([*columns, *files.values()])]
        wanted = self.columns or list(files.values())
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            groups = list(pool.map(lambda file: group_sizes(file, wanted), self.files))
        self.groups = [(number, group) for number, sizes in enumerate(groups) for group in range(len(sizes))]
        self.firsts = np.cumsum([0, *(size for sizes in groups for size in sizes)])
        self.cache = Cache(cache * MIB)

    def __len__(self) -> int:
        return int(self.firsts[-1])

    def locate(self, index: int) -> tuple[int, int]:
        """Which row group an example is in, and which row of it."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name}: index {index} of {len(self)} examples")
        group = int(np.searchsorted(self.firsts, index, "right")) - 1
        return group, index - int(self.firsts[group])

    def place(self, index: int) -> tuple[str, None]:
        """The file of an example."""
        return self.files[self.groups[self.locate(index)[0]][0]].path, None

    def __getitem__(self, index: int) -> Example:
        group, row = self.locate(index)
        file = self.files[self.groups[group][0]]
        try:
            table = self.read(group, self.columns)
            return row_example(table, row, self.named, file.path)
        except StorageError:
            raise
        except (OSError, EOFError, ValueError) as error:  # pyarrow's errors are of these
            reason = f"row {row} of row group {self.groups[group][1]}: {error}"
            raise BadRecord(self.name, str(index), file.path, None, reason) from error

    def read(self, group: int, columns: Sequence[str] | None) -> Any:
        """A row group as a table. Raises OSError or ValueError."""

        def read() -> Any:
            number, inside = self.groups[group]
            file = self.files[number]
            if File.of(file.path) != file:
                raise OSError("the file has changed since it was opened; start again to read it anew")
            open_file = arrow_module("pyarrow.parquet").ParquetFile
            remote = storage.is_url(file.path)
            with open_file(content(file), metadata=footer(file), pre_buffer=remote) as parquet:
                return parquet.read_row_group(inside, columns=columns, use_threads=False)

        return self.cache.get((group, *(columns or ())), read)

    def metadata(self, names: Sequence[str], start: int, stop: int) -> Mapping[str, Sequence[Any]]:
        """Columns of rows start to stop - 1; no other column is read."""
        tops = [*dict.fromkeys(name.partition(".")[0] for name in names)]
        for file in {self.groups[self.locate(i)[0]][0] for i in (start, stop - 1)}:
            group_sizes(self.files[file], tops)
        parts: dict[str, list[Sequence[Any]]] = {name: [] for name in names}
        while start < stop:
            group, row = self.locate(start)
            end = min(stop, int(self.firsts[group + 1]))
            try:
                columns = table_metadata(self.read(group, tops).slice(row, end - start), names)
            except StorageError:
                raise
            except (OSError, EOFError):  # the whole group is broken
                columns = {name: [None] * (end - start) for name in names}
            for name, values in columns.items():
                parts[name].append(values)
            start = end
        return {name: joined_columns(values) for name, values in parts.items()}


def joined_columns(parts: Sequence[Sequence[Any]]) -> Sequence[Any]:
    """The values of all parts: an array if the parts are arrays."""
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts)  # type: ignore[return-value]
    return [value for part in parts for value in part]


def group_sizes(file: File, columns: Sequence[str]) -> list[int]:
    """Rows of each row group. Raises ValueError, naming the file, if it is broken or lacks a column."""
    try:
        found = footer(file)
    except StorageError:
        raise
    except (OSError, arrow_module().ArrowInvalid) as error:
        raise ValueError(f"{file.path}: not a whole Parquet file: {error}") from error
    check_columns(columns, found.schema.to_arrow_schema().names, file.path)
    return [found.row_group(i).num_rows for i in range(found.num_row_groups)]


@functools.lru_cache(maxsize=_FOOTERS)
def footer(file: File) -> Any:
    """Where the columns of each row group lie, and their schema; over a network a request of its own."""
    return arrow_module("pyarrow.parquet").read_metadata(content(file))


def content(file: File) -> Any:
    """What pyarrow is to read: a path, or spans of what lies elsewhere."""
    return storage.Spans(file.path, file.size) if storage.is_url(file.path) else file.path


class Cache:
    """The tables used last, up to so many bytes, but at least one. Threads that want the same table read it once."""

    def __init__(self, limit: int):
        self.limit, self.bytes, self.process = limit, 0, os.getpid()
        self.tables: collections.OrderedDict[Hashable, concurrent.futures.Future[Any]] = collections.OrderedDict()
        self.lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"limit": self.limit}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def get(self, key: Hashable, read: Callable[[], Any]) -> Any:
        """The table of a key, by `read` if it is not there."""
        if self.process != os.getpid():  # a forked process has not the threads that were reading
            self.__init__(self.limit)  # type: ignore[misc]
        with self.lock:
            if mine := key not in self.tables:
                self.tables[key] = concurrent.futures.Future()
            self.tables.move_to_end(key)
            future = self.tables[key]
        if not mine:
            return future.result()
        try:
            table = read()
        except BaseException as error:
            with self.lock:
                del self.tables[key]
            future.set_exception(error)
            raise
        with self.lock:
            future.set_result(table)
            self.bytes += table.nbytes
            for old in list(self.tables):
                if self.bytes > self.limit and old != key and self.tables[old].done():
                    self.bytes -= self.tables.pop(old).result().nbytes
        return table

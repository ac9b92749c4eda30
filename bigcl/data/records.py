"""Files of records: which files there are, where each record lies in them, and the files that records name."""

import bisect
import concurrent.futures
import functools
import glob
import hashlib
import io
import os
import pathlib
import posixpath
import re
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64
from tqdm.auto import tqdm

from bigcl.data import storage
from bigcl.data.cache import prepare
from bigcl.data.sources import BadRecord, Example, pick_fields, readable
from bigcl.data.storage import StorageError

_OPENERS = 32
_OPEN_FILES = 128  # kept open at a time; far below the usual limit of 1024 for a process


class File(NamedTuple):
    """A file in a certain state."""

    path: str
    size: int
    tag: str

    @classmethod
    def of(cls, path: str) -> "File":
        """The file as it is now. Raises OSError."""
        return cls(path, *storage.stat(path))


def joined(paths: str | Sequence[str]) -> str:
    """One path or several, in one line."""
    return paths if isinstance(paths, str) else " ".join(paths)


def find_files(paths: str | Sequence[str], pattern: str, hint: str = "") -> list[File]:
    """The files of a folder (those that match `pattern`), of a glob, or of a list of files, folders and globs; sorted
    within each. URLs may have braces, `{000..123}`, and that of a folder ends with "/".

    hint: what makes such files. Raises FileNotFoundError, naming the entry, where there are none.
    """
    found = []
    for entry in [paths] if isinstance(paths, str) else paths:
        files = find_urls(entry, pattern) if storage.is_url(entry) else find_paths(entry, pattern)
        if not files:
            raise FileNotFoundError(f"{entry}: no {pattern} files here" + (f"; {hint}" if hint else ""))
        found += files
    with concurrent.futures.ThreadPoolExecutor(_OPENERS) as pool:
        return list(pool.map(File.of, found))


def find_paths(entry: str, pattern: str) -> list[str]:
    """The local files that one entry stands for."""
    path = pathlib.Path(entry).expanduser()
    return [str(path)] if path.is_file() else sorted(glob.glob(str(path / pattern if path.is_dir() else path)))


def find_urls(entry: str, pattern: str) -> list[str]:
    """The URLs that one entry stands for."""
    found = []
    for url in storage.braces(entry):
        folder = url.endswith("/")
        several = folder or re.search(r"[*\[]", url)  # "?" begins a query
        found += sorted(storage.find(url + pattern if folder else url, storage.PATIENCE)) if several else [url]
    return found


def fingerprint(files: Iterable[File]) -> str:
    """Hex digits that change when a file is replaced or written to."""
    return hashlib.sha256(repr([tuple(file) for file in files]).encode()).hexdigest()[:16]


def extent(files: Iterable[tuple[Any, ...]]) -> str:
    """Hex digits that copies of files share, in whatever folder. files: path, and what else is known of each, as the
    size."""
    return hashlib.sha256(repr([(os.path.basename(path), *known) for path, *known in files]).encode()).hexdigest()[:16]


@functools.lru_cache(maxsize=_OPEN_FILES)
def open_file(file: File) -> io.FileIO:
    """An open handle, shared by all threads and, since it has no position that matters, by forked processes.

    Raises OSError, also if the file is no longer what it was.
    """
    handle = io.FileIO(file.path)
    stat = os.fstat(handle.fileno())
    if (stat.st_size, str(stat.st_mtime_ns)) != (file.size, file.tag):
        raise OSError("the file has changed since it was opened; start again to read it anew")
    return handle


def read_at(file: File, start: int, stop: int) -> bytes:
    """Bytes [start, stop) of a file. Raises OSError."""
    if storage.is_url(file.path):
        return storage.read(file.path, start, stop)
    handle = open_file(file)  # held here: another thread may drop it from the cache, which closes it
    data = os.pread(handle.fileno(), stop - start, start)
    if len(data) < stop - start:
        raise OSError(f"the file ends at {start + len(data)}, before the record does")
    return data


class Records:
    """The records of files as byte ranges, found once by `scan` and kept in the cache: 8 bytes a record, mapped into
    memory and not copied.

    name: of the source, for errors.
    recipe: plain data that, besides the files, decides what `scan` finds; its key "kind" names the cache's folder.
    scan: file -> bounds (int64 [n + 1]): record k is bytes [bounds[k], bounds[k + 1]).
    """

    def __init__(self, name: str, files: Sequence[File], recipe: Mapping[str, Any], scan: Callable[[File], Any]):
        self.name, self.files = name, list(files)
        self.identity, self.extent = fingerprint(files), extent((f.path, f.size) for f in files)

        def build(folder: pathlib.Path) -> None:
            with tqdm(
                total=sum(f.size for f in files), unit="B", unit_scale=True, desc="indexing", delay=1, disable=None
            ) as bar:
                parts = []
                for file in files:
                    parts.append(np.asarray(scan(file), np.int64))
                    bar.update(file.size)
            np.save(folder / "bounds.npy", np.concatenate(parts))
            np.save(folder / "firsts.npy", np.cumsum([0, *(len(part) - 1 for part in parts)]))

        self.folder = prepare(f"index-{recipe['kind']}", {**recipe, "files": self.identity, "layout": 1}, build)
        self.open()

    def open(self) -> None:
        """Maps the index. `firsts` holds the global index of each file's first record, and the number of all."""
        mapped = np.load(self.folder / "bounds.npy", mmap_mode="r")
        self.bounds: Int64[np.ndarray, " n"] = mapped.view(np.ndarray)  # the same memory, sliced faster
        self.firsts: list[int] = np.load(self.folder / "firsts.npy").tolist()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("bounds", "firsts")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.open()

    def __len__(self) -> int:
        return self.firsts[-1]

    def locate(self, index: int) -> tuple[File, int, int]:
        """File and byte range of a record."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name}: index {index} of {len(self)} examples")
        number = bisect.bisect_right(self.firsts, index) - 1
        start, stop = self.bounds[index + number : index + number + 2].tolist()  # each file before has one bound more
        return self.files[number], start, stop

    def place(self, index: int) -> tuple[str, int]:
        """File and byte of a record."""
        file, start, _ = self.locate(index)
        return file.path, start

    def read(self, index: int) -> bytes:
        """The bytes of a record. Raises BadRecord, StorageError."""
        file, start, stop = self.locate(index)
        try:
            return read_at(file, start, stop)
        except StorageError:
            raise
        except (OSError, EOFError) as error:
            raise self.bad(index, str(error)) from error

    def text(self, index: int) -> str:
        """A record as text, without the byte order mark that some files begin with. Raises BadRecord."""
        try:
            text = self.read(index).decode()
        except UnicodeDecodeError as error:
            raise self.bad(index, str(error)) from error
        return text if self.locate(index)[1] else text.removeprefix("\ufeff")

    def bad(self, index: int, reason: str) -> BadRecord:
        """The error for a record that cannot be used."""
        return BadRecord(self.name, str(index), *self.place(index), reason)


class NamedFiles:
    """Contents of the files that examples name.

    files: key of the content -> key of the file's name, {"image": "path"}.
    root: the folder, or URL of one, that holds them and that names are relative to; None for the folder of the file
        that names them. A name that leads out of it, also through a link, is an error.
    """

    def __init__(self, files: Mapping[str, str], root: str | None):
        self.files, self.root = dict(files), root

    def add(self, example: Example, beside: str) -> Example:
        """The example with the contents. Raises OSError or ValueError, which say what is wrong with the name.

        beside: the file that the example is from.
        """
        for out, key in self.files.items():
            if not isinstance(name := example.get(key), str) or not name:
                raise ValueError(f"{key!r} names no file, but is {name!r}")
            example[out] = self.read(name, beside)
        return example

    def read(self, name: str, beside: str) -> bytes:
        """The content of one file."""
        if storage.is_url(self.root or beside):
            return storage.read_whole(url_inside(self.root or posixpath.dirname(beside), name))
        root = os.path.realpath(
            os.path.expanduser(self.root) if self.root else os.path.dirname(os.path.abspath(beside))
        )
        path = os.path.realpath(os.path.join(root, name))
        if os.path.commonpath([root, path]) != root:
            raise ValueError(f"{name!r} lies outside of {root}; only `root` may say where files are")
        return storage.read_whole(path)


def url_inside(root: str, name: str) -> str:
    """The URL of the file `name`, relative or whole, under `root`. Raises ValueError if it would lie elsewhere."""
    root = root.rstrip("/")
    inside = name.removeprefix(root + "/")
    parts = [urllib.parse.unquote(part) for part in inside.split("/")]
    query = root.startswith("http") and {"?", "#"} & set(inside)
    if query or storage.is_url(inside) or any(part in ("", ".", "..") or {"/", "\\"} & set(part) for part in parts):
        raise ValueError(f"{name!r} lies outside of {root}, or nowhere; only `root` may say where files are")
    return f"{root}/{inside}"


def is_remote(files: Iterable[File], named: NamedFiles | None = None) -> bool:
    """Whether files, or those that they name, lie behind a network."""
    roots = [named.root] if named and named.files and named.root else []
    return any(map(storage.is_url, [*(file.path for file in files), *roots]))


class Rows:
    """A source whose records are rows of text, each an example that may name files: CSV, JSON lines."""

    records: Records
    named: NamedFiles

    def parse(self, index: int) -> Example:
        """The fields of the row itself. Raises BadRecord."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.records)

    def place(self, index: int) -> tuple[str, int]:
        """File and byte of a row."""
        return self.records.place(index)

    def __getitem__(self, index: int) -> Example:
        example = self.parse(index)
        try:
            return self.named.add(example, self.records.locate(index)[0].path)
        except StorageError:
            raise
        except (OSError, ValueError) as error:
            raise self.records.bad(index, str(error)) from error

    def metadata(self, names: Sequence[str], start: int, stop: int) -> Mapping[str, Sequence[Any]]:
        """Fields of the rows themselves; no other file is read."""
        return pick_fields((readable(self.parse, index) for index in range(start, stop)), names)

"""Files by path or URL: which there are, how large they are, and spans of their bytes.

Local paths are read by the system. URLs (`http://`, `https://`, `s3://`, `gs://`, and others with an asynchronous
fsspec file system) go through fsspec, which keeps one pool of connections for each process and opens it at the first
use: nothing here is lost by pickling, forking or spawning. Credentials, endpoints and the like come from where fsspec
and the clouds' own tools look for them: `AWS_ENDPOINT_URL`, `FSSPEC_S3='{"anon": true}'`.
"""

import collections
import dataclasses
import errno
import glob
import io
import itertools
import logging
import os
import posixpath
import random
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")
log = logging.getLogger(__name__)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_LONGEST_RANGE = 10_000_000
_CHUNK = 4 * 2**20
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, EOFError, ValueError, TypeError, ImportError)
_FINAL_ERRNO = {errno.EINVAL, errno.EPERM, errno.ENOSYS, errno.ENAMETOOLONG, errno.ENOTDIR}
_PASSING_STATUS = {408, 425, 429}  # of the 4xx; the others mean that the request is wrong
_PLAIN = {"headers": {"Accept-Encoding": "identity"}}  # a span of compressed bytes would be of no use
_OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "http": _PLAIN,
    "https": _PLAIN,
    "s3": {"config_kwargs": {"retries": {"total_max_attempts": 1}, "max_pool_connections": 64}},  # of 10 by default
}
_TAGS = ("ETag", "etag", "md5Hash", "Last-Modified", "LastModified", "updated", "mtime")


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long storage is waited for, in seconds.

    request: deadline of one request. (The system lets no read of a local disk be cut short.)
    total: deadline of one span of bytes with all that is tried for it.
    attempts: how many requests are made for it at most.
    delay, longest_delay: before the second attempt, doubled for each further one up to the longest; up to half of it is
        taken off at random, so that many readers do not come back together.
    """

    request: float = 60.0
    total: float = 300.0
    attempts: int = 8
    delay: float = 0.5
    longest_delay: float = 30.0


PATIENCE = Patience()


class StorageError(OSError):
    """Storage did not answer within `Patience`, or not in a way that can be used; names host, file and bytes."""


class Stat(NamedTuple):
    """Size of a file in bytes, and a tag (ETag or time of the last change) that another content would not have."""

    size: int
    tag: str


def is_url(path: str) -> bool:
    """Whether a path is `scheme://...`."""
    return bool(_URL.match(path))


def read(path: str, start: int, stop: int, patience: Patience = PATIENCE) -> bytes:
    """Bytes [start, stop) of a file: all of them, or an error.

    Raises FileNotFoundError; EOFError if the file ends before `stop`; StorageError when patience is at its end.
    """

    def once(seconds: float) -> bytes:
        return read_url(path, start, stop, seconds) if is_url(path) else read_local(path, start, stop)

    return insist(once, f"{path}, bytes {start} to {stop}", patience)


def read_whole(path: str, patience: Patience = PATIENCE) -> bytes:
    """All bytes of a file. Errors as of `read`."""
    if is_url(path):
        return insist(lambda seconds: request(path, "_cat_file", seconds), path, patience)
    with open(path, "rb") as file:
        return file.read()


class Spans(io.RawIOBase):
    """A file of `size` bytes as a stream without a buffer, each read a `read` of just the span that was asked for."""

    def __init__(self, path: str, size: int, patience: Patience = PATIENCE):
        self.path, self.size, self.patience, self.position = path, size, patience, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        start, stop = self.position, min(self.position + len(buffer), self.size)
        if start < stop:
            buffer[: stop - start] = read(self.path, start, stop, self.patience)
            self.position = stop
        return max(0, stop - start)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.position = max(0, offset + (0, self.position, self.size)[whence])
        return self.position

    def tell(self) -> int:
        return self.position


def open_stream(path: str, size: int, patience: Patience = PATIENCE) -> io.BufferedReader:
    """A file of `size` bytes, to be read from its beginning to its end."""
    return io.BufferedReader(Spans(path, size, patience), _CHUNK) if is_url(path) else open(path, "rb")


def stat(path: str, patience: Patience = PATIENCE) -> Stat:
    """Size and tag of a file. Raises FileNotFoundError, IsADirectoryError, StorageError."""
    return insist(lambda s: stat_url(path, s) if is_url(path) else stat_local(path), f"{path}, its size", patience)


def insist(once: Callable[[float], T], what: str, patience: Patience) -> T:
    """`once(deadline in seconds)`, called again after errors that may pass."""
    what = f"{socket.gethostname()}: {what}"
    began = time.monotonic()
    for attempt in itertools.count(1):
        left = began + patience.total - time.monotonic()
        try:
            return once(max(0.001, min(patience.request, left)))
        except Exception as error:
            if is_final(error):
                refused = http_status(error) not in (None, 404)  # which some file systems call a missing file
                if refused or not isinstance(error, (StorageError, *_FINAL)):
                    raise StorageError(f"{what}: {error.__cause__ or error!r}") from error
                error.add_note(what)
                raise
            delay = min(patience.longest_delay, patience.delay * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)
            spent = time.monotonic() - began
            if attempt >= patience.attempts or spent + delay >= patience.total:
                raise StorageError(f"{what}: given up in {spent:.1f} s at attempt {attempt}: {error!r}") from error
            log.warning("%s: attempt %d of %d: %r; again in %.1f s", what, attempt, patience.attempts, error, delay)
            time.sleep(delay)
    raise AssertionError("not reached")


def is_final(error: Exception) -> bool:
    """Whether trying again is useless."""
    if (status := http_status(error)) is not None:
        return 400 <= status < 500 and status not in _PASSING_STATUS
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        return False  # fsspec over HTTP says so for whatever kept it from learning the size
    if "Credentials" in type(error).__name__:  # of botocore and of google-auth
        return True
    return isinstance(error, (StorageError, *_FINAL)) or (isinstance(error, OSError) and error.errno in _FINAL_ERRNO)


def http_status(error: BaseException) -> int | None:
    """The status of the answer that an error of aiohttp, gcsfs or s3fs is about; they put it in different places."""
    if isinstance(error, OSError) and error.__cause__ is not None:
        return http_status(error.__cause__)  # an answer translated to an error of the system
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    status = error.status if hasattr(error, "status") else getattr(error, "code", None)
    return status if isinstance(status, int) else None


def read_local(path: str, start: int, stop: int) -> bytes:
    """Bytes [start, stop) of a local file."""
    parts = []
    file = os.open(path, os.O_RDONLY)
    try:
        while start < stop:
            part = os.pread(file, stop - start, start)
            if not part:
                raise EOFError(f"{path} ends at byte {start}, before {stop}")
            parts.append(part)
            start += len(part)
    finally:
        os.close(file)
    return b"".join(parts)


def stat_local(path: str) -> Stat:
    """Size and time of change of a local file."""
    if os.path.isdir(path):
        raise IsADirectoryError(f"{path}: a folder, where a file is expected")
    result = os.stat(path)
    return Stat(result.st_size, str(result.st_mtime_ns))


def read_url(path: str, start: int, stop: int, seconds: float) -> bytes:
    """Bytes [start, stop) of an object, by one request."""
    if start == stop:
        return b""
    try:
        data = request(path, "_cat_file", seconds, start=start, end=stop)
    except Exception as error:
        if http_status(error) == 416:  # range not satisfiable
            raise EOFError(f"{path} ends before byte {start}") from error
        raise
    if len(data) > stop - start:
        raise StorageError(f"{path}: the server sent {len(data)} bytes for {stop - start}; it serves no byte ranges")
    if len(data) < stop - start:
        raise ConnectionError(f"{len(data)} of {stop - start} bytes came")
    return data


def stat_url(path: str, seconds: float) -> Stat:
    """Size and tag of an object."""
    info = request(path, "_info", seconds)
    if info["type"] == "directory":
        raise IsADirectoryError(f"{path}: a folder; write {path.rstrip('/')}/ for all that is in it")
    if info["size"] is None:
        raise StorageError(f"{path}: the server does not tell its size, so that it serves no byte ranges either")
    return Stat(info["size"], next((str(info[t]) for t in _TAGS if info.get(t)), ""))


def request(path: str, method: str, seconds: float, **options: Any) -> Any:
    """Calls a coroutine method of the file system of a URL, with a deadline."""
    from fsspec.asyn import sync

    files = connect(path)
    return sync(files.loop, getattr(files, method), path, timeout=seconds, **options)


def connect(path: str) -> Any:
    """The fsspec file system of a URL: one for each process and protocol."""
    protocol = path.partition("://")[0].lower()
    try:
        import fsspec

        users = fsspec.config.conf.get(protocol, {})
        options = {key: {**users.get(key, {}), **ours} for key, ours in _OPTIONS.get(protocol, {}).items()}
        files = fsspec.filesystem(protocol, **options)
    except ImportError as error:
        raise ImportError(f'{path}: {protocol}:// needs more packages: pip install "bigcl[remote]"') from error
    if not files.async_impl:
        raise ValueError(f"{path}: fsspec reads {protocol}:// without a deadline, which is not supported here")
    files.retries = 1  # those of S3 and GCS would try again by themselves, without a word
    return files


def find_files(patterns: str | Sequence[str], suffixes: Sequence[str], patience: Patience = PATIENCE) -> list[str]:
    """The files that paths or URLs stand for, in the given order.

    patterns: files; globs; braces, `{000..123}` or `{a,b}`; folders (a URL of one ends with "/"), for the files in them
        with one of `suffixes`; text files (`.txt`) that list any of these, one a line, relative to the text file.
        What a glob or a folder stands for is sorted by name.

    Raises FileNotFoundError for a glob or folder without files, ValueError for a file that is named twice. Whether a
    file that is named in full exists is not looked up.
    """
    patterns = [patterns] if isinstance(patterns, str) else patterns
    files = [file for pattern in patterns for file in expand(pattern, tuple(suffixes), patience)]
    if not files:
        raise FileNotFoundError(f"{patterns}: no files")
    if twice := [file for file, count in collections.Counter(files).items() if count > 1]:
        raise ValueError(f"{twice[0]}: named twice")
    return files


def expand(pattern: str, suffixes: tuple[str, ...], patience: Patience) -> Iterator[str]:
    """The files of one pattern."""
    if pattern.startswith("pipe:"):
        raise ValueError(f"{pattern}: commands are not run; give the URL itself (s3://, gs://, https://)")
    for path in braces(pattern):
        path = path if is_url(path) else os.path.expanduser(path)
        folder = path.endswith("/") if is_url(path) else os.path.isdir(path)
        if path.endswith(".txt") and not folder:
            for line in read_list(path, patience):
                yield from expand(line, suffixes, patience)
        elif folder or re.search(r"[*\[]" if is_url(path) else r"[*?\[]", path):  # "?" begins the query of a URL
            files = sorted(find(posixpath.join(path, "*") if folder else path, patience))
            files = [f for f in files if f.endswith(suffixes)] if folder else files
            if not files:
                raise FileNotFoundError(f"{pattern}: no {' or '.join(suffixes)} files here")
            yield from files
        else:
            yield path


def read_list(path: str, patience: Patience) -> list[str]:
    """The lines of a text file, as paths relative to its folder."""
    text = str(read(path, 0, stat(path, patience).size, patience), "utf-8")
    lines = [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]
    return [line if is_url(line) else posixpath.join(posixpath.dirname(path), line) for line in lines]


def find(pattern: str, patience: Patience) -> list[str]:
    """Files that match a glob."""
    if not is_url(pattern):
        return [f for f in glob.glob(pattern) if not os.path.isdir(f)]
    files = connect(pattern)
    files.invalidate_cache()  # what `stat` then takes from the fresh listing saves a request for each file
    found = insist(
        lambda seconds: request(pattern, "_glob", seconds, detail=True), f"{pattern}, the list of files", patience
    )
    return [files.unstrip_protocol(name) for name, info in found.items() if info["type"] == "file"]


def braces(pattern: str) -> Iterator[str]:
    """`"a{00..02}{x,y}"` -> "a00x", "a00y", "a01x", ...; numbers keep the width of the first one."""
    match = _BRACES.search(pattern)
    if match is None:
        yield pattern
        return
    before, after = pattern[: match.start()], pattern[match.end() :]
    if numbers := _RANGE.fullmatch(match[1]):
        first, last = int(numbers[1]), int(numbers[2])
        if not first <= last < first + _LONGEST_RANGE:
            raise ValueError(f"{pattern}: {match[0]} should go up, by less than {_LONGEST_RANGE:,}")
        width = len(numbers[1])
        middles: Iterator[str] = (f"{n:0{width}d}" for n in range(first, last + 1))
    else:
        middles = iter(match[1].split(","))
    for middle in middles:
        yield from braces(before + middle + after)

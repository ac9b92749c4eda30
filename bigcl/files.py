"""Files that are whole or not there at all, and files that outlast a full disk."""

import contextlib
import json
import os
import pathlib
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a path to write to, which takes the place of `path` when all went well: a reader, or a run that was killed,
    finds the old content or the new one."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json_lines(path: pathlib.Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Writes JSON lines, all of them or none."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def check_writable(folder: pathlib.Path) -> None:
    """Makes a folder and a file in it, and removes the file. Raises OSError where that cannot be done."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".writable-{uuid.uuid4().hex}"
    try:
        probe.write_bytes(b"\n")
    finally:
        probe.unlink(missing_ok=True)


def write_at(file: int, offset: int, data: bytes) -> None:
    """Writes all of `data` to a file descriptor and ends the file there; raises OSError if there is no room."""
    done = 0
    while done < len(data):  # a disk takes what still fits before it refuses
        done += os.pwrite(file, data[done:], offset + done)
    os.ftruncate(file, offset + len(data))


class PatientFile:
    """A file to append to, whose content waits in memory while it cannot be written: each `flush` tries again.

    end: bytes of what is there already.
    """

    def __init__(self, path: pathlib.Path, end: int = 0):
        self.path, self.end, self.waiting = path, end, bytearray()

    def write(self, data: bytes) -> None:
        """Puts data into memory."""
        self.waiting += data

    def flush(self) -> None:
        """Writes what waits, if that can be done."""
        if not self.waiting:
            return
        with contextlib.suppress(OSError):
            file = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o666)
            try:
                write_at(file, self.end, bytes(self.waiting))
            finally:
                os.close(file)
            self.end += len(self.waiting)
            self.waiting.clear()

    def close(self) -> None:
        """The last attempt."""
        self.flush()

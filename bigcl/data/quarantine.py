"""The bad records of a run: listed once each, and counted, for a run that meets too many of them has to stop."""

import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from bigcl.data.sources import BadRecord
from bigcl.files import PatientFile

Record = Mapping[str, Any]
_LEAST = 1000
_SHOWN = 3


class TooManyBadRecords(RuntimeError):
    """More of the data is broken than `data.max_bad_fraction` allows."""


class Quarantine:
    """`quarantine.jsonl`: a line for each bad record, with source, key, shard, offset, reason and index (null for a
    fault of a whole shard). One process writes it; while the disk is full, lines wait in memory."""

    def __init__(self, path: pathlib.Path):
        whole = path.read_bytes() if path.exists() else b""
        lines = whole[: whole.rfind(b"\n") + 1]  # a run that was killed may have left half a line
        self.file = PatientFile(path, end=len(lines))
        self.known = {identity(json.loads(line)) for line in lines.splitlines()}

    def add(self, records: Iterable[Record]) -> int:
        """Appends those that are not listed yet; returns how many."""
        new = {i: record for record in records if (i := identity(record)) not in self.known}
        for record in new.values():
            self.file.write((json.dumps(record, ensure_ascii=False) + "\n").encode())
        self.file.flush()
        self.known |= new.keys()
        return len(new)


class Allowance:
    """How many bad records a run puts up with.

    fraction: of the examples that were drawn; at least 1,000 are counted, so that one of a few cannot stop a run.
    """

    def __init__(self, fraction: float):
        self.fraction, self.drawn, self.bad = fraction, 0, 0
        self.last: list[Record] = []

    def count(self, drawn: int, records: list[Record]) -> None:
        """Raises TooManyBadRecords, with the reasons of the last, if so many of all that was drawn are bad."""
        self.drawn, self.bad = self.drawn + drawn, self.bad + len(records)
        self.last = [*self.last, *records][-_SHOWN:]
        if self.bad > self.fraction * max(self.drawn, _LEAST):
            raise TooManyBadRecords(
                f"{self.bad:,} of {self.drawn:,} examples were bad records, more than data.max_bad_fraction = "
                f"{self.fraction:g} allows; quarantine.jsonl lists them. The last ones:"
                + "".join(f"\n  {describe(record)}" for record in self.last)
            )


def describe(record: Record) -> str:
    """A record as a person reads it."""
    return str(BadRecord(**{k: v for k, v in record.items() if k != "index"}))


def fault_records(faults: Iterable[BadRecord]) -> list[dict[str, Any]]:
    """What a source found broken when it was opened, as records."""
    return [{**vars(fault), "index": None} for fault in faults]


def identity(record: Record) -> tuple[Any, ...]:
    """What makes a record the same one."""
    if record["index"] is None:
        return record["source"], record["shard"], record["offset"]
    return record["source"], record["index"]

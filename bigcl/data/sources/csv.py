"""CSV and TSV tables, often of captions and the names of picture files."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Int64

from bigcl.data.records import File, NamedFiles, Records, Rows, find_files, is_remote, joined
from bigcl.data.sources import Example
from bigcl.data.storage import open_stream


class CSV(Rows):
    """The rows of CSV files, in the order of the sorted file names; blank lines do not count.

    What a row is, the csv module decides: quoted values may hold line breaks. Values are text.
    paths: a folder (its *.csv), a glob, or a list of files, folders and globs.
    columns: their names; None where the first row of each file has them.
    numbers: columns whose values are numbers: int, or float, and None where empty.
    files, root: columns that name files, whose contents become fields; see `NamedFiles`.
    """

    def __init__(
        self,
        paths: str | Sequence[str],
        columns: Sequence[str] | None = None,
        numbers: Sequence[str] = (),
        delimiter: str = ",",
        files: Mapping[str, str] = {},
        root: str | None = None,
    ):
        if len(delimiter) != 1:
            raise ValueError(f"csv.delimiter: one character, not {delimiter!r}")
        self.name = f"csv {joined(paths)}"
        self.delimiter, self.numbers, self.named = delimiter, tuple(numbers), NamedFiles(files, root)
        found = find_files(paths, "*.csv")
        self.columns = {f.path: list(columns or next(self.rows(f), (0, []))[1]) for f in found}
        for path, names in self.columns.items():
            if absent := {*self.numbers, *files.values()} - set(names):
                raise ValueError(f"{path}: no column {sorted(absent)[0]!r}, but {', '.join(names)}")
        recipe = {"kind": "csv", "delimiter": delimiter, "header": columns is None}
        self.records = Records(self.name, found, recipe, lambda file: self.bounds(file, header=columns is None))
        self.remote = is_remote(self.records.files, self.named)
        self.extent = [self.records.extent, delimiter, list(columns or ()), list(numbers)]
        self.identity = [self.records.identity, delimiter, list(columns or ()), list(numbers)]

    def parse(self, index: int) -> Example:
        """The row as a dict. Raises BadRecord."""
        names = self.columns[self.records.locate(index)[0].path]
        text = self.records.text(index)
        try:
            row = next(csv.reader(io.StringIO(text, newline=""), delimiter=self.delimiter))
            if len(row) != len(names):
                raise ValueError(f"{len(row)} values for {len(names)} columns")
            example: Example = dict(zip(names, row, strict=True))
            for name in self.numbers:
                example[name] = number(example[name])
        except (ValueError, csv.Error) as error:
            raise self.records.bad(index, str(error)) from error
        return example

    def rows(self, file: File) -> Iterator[tuple[int, list[str]]]:
        """The rows of a file that are not blank, each with the offset where it starts, and at last an empty row."""
        offset = 0

        def lines() -> Iterator[str]:
            nonlocal offset
            # Bytes that are no UTF-8 go through unharmed: one bad row must not hide where the others are.
            binary = open_stream(file.path, file.size)
            with io.TextIOWrapper(binary, encoding="utf-8", errors="surrogateescape", newline="") as stream:
                for count, line in enumerate(stream):
                    offset += len(line.encode("utf-8", "surrogateescape"))
                    yield line if count else line.removeprefix("\ufeff")

        start, reader = 0, csv.reader(lines(), delimiter=self.delimiter)
        try:
            for row in reader:  # which takes no line before it needs it, so that `offset` is where the row ends
                if row:
                    yield start, row
                start = offset
        except csv.Error as error:
            raise ValueError(f"{file.path}: the row at byte {start} is no CSV: {error}") from error
        yield offset, []

    def bounds(self, file: File, header: bool) -> Int64[np.ndarray, " n"]:
        """Where the rows start, and where the last one ends."""
        starts = np.fromiter((start for start, _ in self.rows(file)), np.int64)
        return starts[1:] if header and len(starts) > 1 else starts


def number(text: str) -> int | float | None:
    """A number as Python writes it; None for nothing."""
    if not text.strip():
        return None
    try:
        return int(text)
    except ValueError:
        return float(text)

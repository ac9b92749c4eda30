"""JSON lines: one object a line, often the captions of pictures that lie beside it as files."""

import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Int64

from bigcl.data.records import File, NamedFiles, Records, Rows, find_files, is_remote, joined
from bigcl.data.sources import Example
from bigcl.data.storage import open_stream

_BLANK = b" \t\r\n"


class JSONL(Rows):
    """The objects of JSON-lines files, in the order of the sorted file names; blank lines do not count.

    paths: a folder (its *.jsonl), a glob, or a list of files, folders and globs.
    files, root: fields that name files, whose contents become fields; see `NamedFiles`.
    """

    def __init__(self, paths: str | Sequence[str], files: Mapping[str, str] = {}, root: str | None = None):
        self.name = f"jsonl {joined(paths)}"
        self.records = Records(self.name, find_files(paths, "*.jsonl"), {"kind": "jsonl"}, line_bounds)
        self.identity, self.extent = self.records.identity, self.records.extent
        self.named = NamedFiles(files, root)
        self.remote = is_remote(self.records.files, self.named)

    def parse(self, index: int) -> Example:
        """The object of a line. Raises BadRecord."""
        text = self.records.text(index)
        try:
            value = _DECODER.decode(text)
            if "\\u" in text:  # half of a surrogate pair is a str that no tokenizer takes
                json.dumps(value, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            raise self.records.bad(index, f"not JSON: {error}") from error
        if not isinstance(value, dict):
            raise self.records.bad(index, f"not a JSON object, but {type(value).__name__}")
        return value


def refuse(constant: str) -> None:
    """NaN and Infinity are no JSON."""
    raise ValueError(f"{constant} is no JSON value")


_DECODER = json.JSONDecoder(parse_constant=refuse)


def line_bounds(file: File) -> Int64[np.ndarray, " n"]:
    """Where the lines start that are not blank, and where the last one ends.

    The range of a line goes on over blank lines after it, which to JSON are white space.
    """

    def bounds() -> Iterator[int]:
        offset = 0
        with open_stream(file.path, file.size) as stream:
            for line in stream:
                if line.strip(_BLANK):
                    yield offset
                offset += len(line)
        yield offset

    return np.fromiter(bounds(), np.int64)

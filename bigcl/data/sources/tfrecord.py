"""TFRecord files of `tf.train.Example`, read by index and without TensorFlow."""

import struct
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int64

from bigcl.data.crc32c import crc32c
from bigcl.data.records import File, Records, find_files, is_remote, joined
from bigcl.data.sources import Example
from bigcl.data.sources.arrayrecord import parse_tf_example
from bigcl.data.storage import open_stream

HEADER, FOOTER = 12, 4  # length (uint64) and its checksum before the data, the data's checksum after it
_GZIP, _MASK = b"\x1f\x8b", 0xA282EAD8


class TFRecord:
    """The examples of TFRecord files, in the order of the sorted file names; values as those of `ArrayRecord` with
    format "tf_example".

    Checksums are verified at every read. Past a broken length the next record cannot be found: what is left of such a
    file counts as one record, a bad one.

    paths: a folder (its *.tfrecord*), a glob, or a list of files, folders and globs; not compressed.
    """

    def __init__(self, paths: str | Sequence[str]):
        self.name = f"tfrecord {joined(paths)}"
        self.records = Records(self.name, find_files(paths, "*.tfrecord*"), {"kind": "tfrecord"}, record_bounds)
        self.remote = is_remote(self.records.files)
        self.identity, self.extent = self.records.identity, self.records.extent

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        record = self.records.read(index)
        try:
            return parse_tf_example(unframe(record))
        except ValueError as error:
            raise self.records.bad(index, str(error)) from error

    def place(self, index: int) -> tuple[str, int]:
        """File and byte of a record."""
        return self.records.place(index)


def record_bounds(file: File) -> Int64[np.ndarray, " n"]:
    """Where the records start, and where the last one ends."""

    def bounds() -> Iterator[int]:
        start = 0
        with open_stream(file.path, file.size) as stream:
            while start < file.size:
                header = stream.read(HEADER)
                if start == 0 and header.startswith(_GZIP) and masked_crc(header[:8]) != header[8:]:
                    raise ValueError(f"{file.path}: compressed, which cannot be read by index; decompress it first")
                yield start
                intact = len(header) == HEADER and masked_crc(header[:8]) == header[8:]
                length = struct.unpack("<Q", header[:8])[0] + HEADER + FOOTER if intact else file.size
                start = min(start + length, file.size)
                stream.seek(start)
        yield file.size

    return np.fromiter(bounds(), np.int64)


def unframe(record: bytes) -> bytes:
    """The data of a record. Raises ValueError if it is not what was written."""
    if len(record) < HEADER or masked_crc(record[:8]) != record[8:HEADER]:
        raise ValueError("the length of the record is broken, and whatever follows is lost")
    if len(record) != struct.unpack("<Q", record[:8])[0] + HEADER + FOOTER:
        raise ValueError("the file ends before the record does")
    data = record[HEADER:-FOOTER]
    if masked_crc(data) != record[-FOOTER:]:
        raise ValueError("the data do not match their checksum")
    return data


def masked_crc(data: bytes) -> bytes:
    """The checksum as TFRecord stores it: rotated and moved, so that checksums of checksums do not coincide."""
    crc = crc32c(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + _MASK) & 0xFFFFFFFF)

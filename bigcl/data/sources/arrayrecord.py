"""ArrayRecord files: random access at the speed of the disk, for data of any size."""

import importlib
import itertools
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import msgpack
import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter

from bigcl.data import storage
from bigcl.data.records import extent, find_files, fingerprint, joined
from bigcl.data.sources import BadRecord, Example

SUFFIX = ".array_record"
_SYSTEM_ERROR = re.compile(r"\w\(\) failed: (?!No such file)")  # the disk's fault, and not the record's
_ARRAY = 1  # code of arrays among the extensions of msgpack


class ArrayRecord:
    """Examples in ArrayRecord files, in the order of the sorted file names.

    paths: a folder, a glob, or a list of files, folders and globs.
    format: "msgpack", bigcl's own (see `write_arrayrecord`), or "tf_example", the `tf.train.Example` protos that TFDS
        writes: each feature with one value becomes bytes, np.int64 or np.float32, any other a list of bytes or an
            array.
    """

    def __init__(self, paths: str | Sequence[str], format: Literal["msgpack", "tf_example"] = "msgpack"):
        if remote := [path for path in ([paths] if isinstance(paths, str) else paths) if storage.is_url(path)]:
            raise ValueError(
                f"{remote[0]}: ArrayRecord is read from local or mounted disks; tars and tables are also read from URLs"
            )
        files = find_files(paths, f"*{SUFFIX}*", "bigcl.data.sources.arrayrecord.write_arrayrecord makes them")
        self.name, self.identity = f"arrayrecord {joined(paths)}", fingerprint(files)
        self.extent = extent((file.path, file.size) for file in files)
        self.records = open_records([file.path for file in files])
        self.format = format
        self.decode: Callable[[bytes], Example] = {"msgpack": unpack, "tf_example": parse_tf_example}[format]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        record = read_record(self.records, index, self.name)
        try:
            example = self.decode(record)
            if not isinstance(example, dict):
                raise ValueError(f"holds no example, but {type(example).__name__}")
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise bad_record(self.records, index, self.name, f"no {self.format} record: {error}") from error
        return example

    def place(self, index: int) -> tuple[str, None]:
        """The file of an example."""
        return shard_of(self.records, index), None


def open_records(paths: Sequence[str]) -> ArrayRecordDataSource:
    """The records of files. Raises ValueError, naming the file, for one that is no whole ArrayRecord file."""
    try:
        return ArrayRecordDataSource(paths)
    except RuntimeError:  # which names no file
        for path in paths:
            try:
                ArrayRecordDataSource([path])
            except RuntimeError as error:
                reason = str(error) or "it may have been cut"
                raise ValueError(f"{path}: not a whole ArrayRecord file: {reason}") from error
        raise


def read_record(records: ArrayRecordDataSource, index: int, name: str) -> bytes:
    """The bytes of a record. Raises BadRecord for one that is damaged, or whose file is gone."""
    if not 0 <= index < len(records):
        raise IndexError(f"{name}: index {index} of {len(records)} examples")
    try:
        return records[index]
    except RuntimeError as error:
        if _SYSTEM_ERROR.search(str(error)):
            raise
        raise bad_record(records, index, name, str(error) or "the file may have been cut") from error


def bad_record(records: ArrayRecordDataSource, index: int, name: str, reason: str) -> BadRecord:
    """The error for a record that cannot be used."""
    return BadRecord(name, str(index), shard_of(records, index), None, reason)


def shard_of(records: ArrayRecordDataSource, index: int) -> str:
    """The file of a record, which the library does not tell in public."""
    return str(records._paths[records._reader_idx_and_position(index)[0]])


def write_arrayrecord(examples: Iterable[Example], folder: str | pathlib.Path, per_shard: int = 10_000) -> int:
    """Writes examples in their order as msgpack maps into `folder/00000.array_record` and so on; returns how many.

    Values: bytes, str, int, float, bool, None, arrays, and lists and dicts of these.
    per_shard: examples in each file, but the last, which has what is left.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    remaining, count = iter(examples), 0
    for shard in itertools.count():
        part = list(itertools.islice(remaining, per_shard))
        if not part:
            return count
        writer = ArrayRecordWriter(str(folder / f"{shard:05d}{SUFFIX}"), "group_size:1")
        for example in part:
            writer.write(pack(example))
        writer.close()
        count += len(part)
    raise AssertionError("not reached")


def pack(example: Mapping[str, Any]) -> bytes:
    """An example as a record. Raises ValueError for a value that no record can hold."""

    def special(value: Any) -> Any:
        if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufc":
            content = [value.dtype.str, value.shape, value.tobytes()]
            return msgpack.ExtType(_ARRAY, msgpack.packb(content))
        raise ValueError(f"an ArrayRecord file cannot hold {type(value).__name__} {value!r}")

    return msgpack.packb(example, default=special)


def unpack(record: bytes) -> Example:
    """The example of a record."""
    return msgpack.unpackb(record, ext_hook=special_value)


def special_value(code: int, data: bytes) -> Any:
    """The array that `pack` put into an extension of msgpack; a number if it has no dimension."""
    if code != _ARRAY:
        raise ValueError(f"a record with an unknown extension, {code}")
    dtype, shape, content = msgpack.unpackb(data)
    return np.frombuffer(content, dtype).reshape(shape)[()]


def parse_tf_example(record: bytes) -> Example:
    """A serialized `tf.train.Example`, by the proto classes of tensorflow_datasets; no TensorFlow needed.

    Raises ValueError for other bytes.
    """
    try:
        proto = importlib.import_module("tensorflow_datasets.proto.tf_example_generated_pb2")
    except ImportError as error:
        raise ImportError("format 'tf_example' needs tensorflow_datasets: pip install tensorflow-datasets") from error
    try:
        features = proto.Example.FromString(record).features.feature
    except importlib.import_module("google.protobuf.message").DecodeError as error:
        raise ValueError(f"no tf.train.Example: {error}") from error
    return {k: feature_value(f) for k, f in features.items()}


def feature_value(feature: Any) -> Any:
    """The value of one `tf.train.Feature`."""
    kind = feature.WhichOneof("kind")
    if kind is None:
        return []
    values = getattr(feature, kind).value
    if kind == "bytes_list":
        return values[0] if len(values) == 1 else list(values)
    array = np.array(values, np.int64 if kind == "int64_list" else np.float32)
    return array[0] if len(array) == 1 else array

"""Tar shards as img2dataset and WebDataset write them (LAION, DataComp, CC12M ...), at random and from anywhere.

The members of a sample follow each other and share their name up to the first dot: `000000012.jpg`, `000000012.txt`,
`000000012.json`.
"""

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import numpy as np
from tqdm.auto import tqdm

from bigcl.data import storage, tar
from bigcl.data.records import extent
from bigcl.data.shard_index import SUFFIX, index_shards
from bigcl.data.sources import BadRecord, Example
from bigcl.data.storage import Patience
from bigcl.registry import Part

MEMBERS = {"image": ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"], "text": ["txt"]}
SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz")  # the compressed ones are refused, which is better than to be overlooked
_LARGEST_SAMPLE = 2**30
_OPENERS = 32


class WebDataset:
    """Samples of tar shards, in the order of the shards.

    An example: `{"key": "000000012", "image": bytes, "text": str, "json": {...}}`. Of each sample, one span of bytes is
    read. Indexes of shards (see `bigcl.data.shard_index`) that are not there yet are made when the source is opened;
    for many shards, make them before: `python -m bigcl.data index SHARDS`.

    shards: paths or URLs: files, globs, `{000..123}`, folders, text files that list any of these.
    members: what a sample must have: key of the example -> extensions, of which the first that is there counts. All
        other members come under their extension. txt becomes str, json what it holds, cls an int, the rest bytes.
    index: folder of the indexes; None for beside each shard, or in the cache if that is no local folder that can be
        written.
    patience: deadlines and retries.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        members: Mapping[str, Sequence[str]] = MEMBERS,
        index: str | None = None,
        patience: Annotated[Part, Patience] = {},  # noqa: B006
    ):
        self.name = f"webdataset {shards if isinstance(shards, str) else ' '.join(shards)}"
        self.members, self.patience = {k: list(v) for k, v in members.items()}, Patience(**patience)
        files = find_shards(shards, self.patience)
        with ThreadPoolExecutor(_OPENERS) as pool:
            opened = index_shards(files, index, self.patience, pool)
            self.indexes = list(
                tqdm(opened, "opening shards", len(files), unit=" shards", delay=2, leave=False, disable=None)
            )
        self.shards, self.remote = files, any(map(storage.is_url, files))
        self.identity = hashlib.sha256(repr([(i.size, i.tag) for i in self.indexes]).encode()).hexdigest()
        counts = ((shard, i.size, i.samples) for shard, i in zip(files, self.indexes, strict=True))
        self.extent = extent(counts)
        self.first = np.array([0, *itertools.accumulate(i.samples for i in self.indexes)], np.int64)
        self.faults = [
            BadRecord(self.name, None, shard, i.fault_offset, i.fault)
            for shard, i in zip(files, self.indexes, strict=True)
            if i.fault is not None
        ]
        if not len(self):
            raise ValueError(f"{self.name}: no samples; {self.faults[0]}")

    def __len__(self) -> int:
        return int(self.first[-1])

    def __getitem__(self, index: int) -> Example:
        shard, start, stop = self.locate(index)
        try:
            if stop - start > _LARGEST_SAMPLE:
                raise BadRecord(reason=f"a sample of {stop - start:,} bytes")
            data = storage.read(shard, start, stop, self.patience)
            return self.example(data, start)
        except BadRecord as error:
            raise BadRecord(self.name, error.key, shard, start, error.reason) from error
        except tar.TarDamage as error:
            raise BadRecord(self.name, None, shard, start, f"changed since it was indexed ({error})") from error
        except (FileNotFoundError, EOFError) as error:
            raise BadRecord(self.name, None, shard, start, f"gone since it was indexed ({error})") from error

    def locate(self, index: int) -> tuple[str, int, int]:
        """The shard of a sample, and the offsets of its first byte and of the one after its last."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name}: index {index} of {len(self)} samples")
        shard = int(np.searchsorted(self.first, index, "right")) - 1
        return self.shards[shard], *self.indexes[shard].span(int(index - self.first[shard]))

    def place(self, index: int) -> tuple[str, int]:
        """Shard and byte of a sample."""
        return self.locate(index)[:2]

    def example(self, data: bytes, start: int) -> Example:
        """The example in the bytes of a sample, which begin at `start` in their shard."""
        key, found = unpack(data, start)
        there = ", ".join(found)
        example: Example = {"key": key}
        for name, extensions in self.members.items():
            extension = next((e for e in extensions if e in found), None)
            if extension is None:
                raise BadRecord(key=key, reason=f"no member {' or '.join(extensions)}; it has {there}")
            example[name] = decode(found.pop(extension), extension, key)
        return example | {extension: decode(content, extension, key) for extension, content in found.items()}


def find_shards(shards: str | Sequence[str], patience: Patience) -> list[str]:
    """The shards that paths, globs, braces, folders and lists stand for."""
    return [f for f in storage.find_files(shards, SHARD_SUFFIXES, patience) if not f.endswith(SUFFIX)]


def unpack(data: bytes, start: int) -> tuple[str, dict[str, bytes]]:
    """Key and members by extension of the sample in `data`, which begins at `start` in its shard.

    Raises BadRecord for members that are no plain files or whose names lead elsewhere, TarDamage for other bytes.
    """
    key, found = "", {}
    for member in tar.members(lambda a, b: data[a - start : b - start], start, start + len(data)):
        name, extension = tar.split_name(member.name)
        if not name or member.kind == "folder":
            continue
        if tar.escapes(member.name):
            raise BadRecord(key=name, reason=f"the name {member.name!r} leads out of the archive")
        if member.kind != "file":
            raise BadRecord(key=name, reason=f"{member.name!r} is a {member.kind}")
        key = key or name
        if name != key or member.data + member.size > start + len(data):
            raise tar.TarDamage(member.start, f"{member.name!r} where {key!r} should be, alone and whole")
        if extension in found:
            raise BadRecord(key=key, reason=f"two members {extension}")
        found[extension] = data[member.data - start : member.data - start + member.size]
    if not key:
        raise tar.TarDamage(start, "no sample here")
    return key, found


def decode(content: bytes, extension: str, key: str) -> Any:
    """What a member holds, by the last part of its extension. Raises BadRecord."""
    try:
        match extension.rpartition(".")[2]:
            case "txt" | "text":
                return str(content, "utf-8-sig")
            case "json":
                return json.loads(content)
            case "cls":
                return int(content)
    except (ValueError, RecursionError) as error:
        raise BadRecord(key=key, reason=f"member {extension}: {error}") from error
    return content

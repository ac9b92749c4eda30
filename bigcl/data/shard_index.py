"""Where each sample of a tar shard begins: found once, kept in a small file, never used for another content.

An index file is the uint32 numbers of the 512-byte blocks where the samples begin, and of the one where the last sample
ends; then a JSON object that says which content it is of and what is wrong with that; then the uint32 length of the
JSON. That is 4 bytes a sample, and a sample is found by one read of 8 bytes: no process holds the index in memory.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np

from bigcl.data import storage, tar
from bigcl.data.cache import cache_root
from bigcl.data.storage import Patience

SUFFIX = ".index"
_FORMAT = 1
_CHUNK = 4 * 2**20
_LONGEST_NOTE = 2**16
_LARGEST = 2**32 * tar.BLOCK


@dataclasses.dataclass(frozen=True)
class ShardIndex:
    """What is known of one shard.

    path: the index file.
    size, tag: of the content that was indexed, see `storage.Stat`.
    others: members that belong to no sample (folders, names without an extension).
    fault: what is wrong with the shard, or None; what comes at and after byte `fault_offset` is not among the samples.
    built: whether the index was made just now, rather than found.
    """

    path: str
    size: int
    tag: str
    samples: int
    others: int
    fault: str | None
    fault_offset: int
    built: bool = False

    def span(self, sample: int) -> tuple[int, int]:
        """Offsets of the first byte of a sample and of the one after its last."""
        blocks = np.frombuffer(storage.read(self.path, 4 * sample, 4 * sample + 8), "<u4")
        return int(blocks[0]) * tar.BLOCK, min(int(blocks[1]) * tar.BLOCK, self.size)


def index_shards(shards: Sequence[str], folder: str | None, patience: Patience, pool: Executor) -> Iterator[ShardIndex]:
    """Indexes of shards in their order, found or made; `pool` works on several at once. Errors as of `index_shard`."""
    return pool.map(index_shard, shards, [folder] * len(shards), [patience] * len(shards))


def index_shard(shard: str, folder: str | None, patience: Patience) -> ShardIndex:
    """The index of one shard, made unless there is one of just this content.

    Raises FileNotFoundError and StorageError. A shard that is damaged is no error: its `fault` says what is wrong.
    """
    stat = storage.stat(shard, patience)
    places = index_places(shard, folder)
    for place in places:
        if (found := load(place, stat)) is not None:
            return found
    starts, note = scan(lambda start, stop: storage.read(shard, start, stop, patience), stat.size)
    if storage.stat(shard, patience) != stat:
        raise storage.StorageError(f"{shard}: changed while it was being indexed")
    place = next((p for p in places if os.access(p.parent, os.W_OK)), places[-1])
    save(place, starts, {"format": _FORMAT, "shard": os.path.basename(shard), **stat._asdict(), **note})
    return ShardIndex(str(place), *stat, len(starts) - 1, **note, built=True)


def index_places(shard: str, folder: str | None) -> list[pathlib.Path]:
    """Where the index of a shard may lie: in `folder`, or else beside a local shard, or else in the cache."""
    local = not storage.is_url(shard)
    url = os.path.abspath(shard) if local else shard
    name = f"{os.path.basename(shard)}-{hashlib.sha256(url.encode()).hexdigest()[:16]}{SUFFIX}"
    if folder is not None:
        return [pathlib.Path(folder).expanduser() / name]
    beside = [pathlib.Path(shard + SUFFIX)] if local else []
    return [*beside, cache_root() / "tar-index" / name]


def scan(read: tar.Read, size: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Goes through a shard of `size` bytes.

    Returns the block numbers of its samples (uint32 [n + 1]) and the fields `others`, `fault`, `fault_offset`. Of a
    damaged shard, those samples are there that are certainly whole.
    """
    if size > _LARGEST:
        raise ValueError(f"a shard of {size:,} bytes is too large to be indexed; split it")
    starts: list[int] = []
    key, end, others, fault, fault_offset = "", 0, 0, None, 0
    try:
        if method := tar.compression(read(0, min(size, 8))):
            raise tar.TarDamage(0, f"compressed with {method}, where no sample can be reached by itself; decompress it")
        content_end = 0
        for member in tar.members(ahead(read, size), 0, size):
            name, _ = tar.split_name(member.name)
            belongs = bool(name) and member.kind != "folder"
            if belongs and name != key:
                starts.append(member.start)
                key = name
            if member.data + member.size > size:
                raise tar.TarDamage(member.start, f"truncated inside {member.name!r}")
            content_end = member.end
            end = content_end if belongs else end
            others += not belongs
        if not size:
            raise tar.TarDamage(0, "0 bytes")
        if content_end >= size:
            raise tar.TarDamage(size, "no end-of-archive mark: it may have been cut here")
        if not starts:
            raise tar.TarDamage(0, "no samples in it")
    except tar.TarDamage as damage:
        fault, fault_offset = damage.reason, damage.offset
        if starts:  # the last sample may go on in what cannot be read
            end = starts.pop()
    blocks = np.array([*starts, end], np.int64) // tar.BLOCK
    return blocks.astype("<u4"), {"others": others, "fault": fault, "fault_offset": fault_offset}


def ahead(read: tar.Read, size: int) -> tar.Read:
    """`read` for going forward in small steps: fetches much at once, and nothing of what is stepped over widely."""
    held, data = 0, b""

    def step(start: int, stop: int) -> bytes:
        nonlocal held, data
        stop = min(stop, size)
        if start < held or stop > held + len(data):
            held, data = start, read(start, min(max(stop, start + _CHUNK), size))
        return data[start - held : stop - held]

    return step


def save(path: pathlib.Path, blocks: np.ndarray, note: dict[str, Any]) -> None:
    """Writes an index file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tail = json.dumps(note).encode()
    partial = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(blocks.tobytes() + tail + len(tail).to_bytes(4, "little"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load(path: pathlib.Path, stat: storage.Stat) -> ShardIndex | None:
    """The index in a file; None if there is none, or it is of another content or no index at all."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(size - 4)
            length = int.from_bytes(file.read(4), "little")
            file.seek(size - 4 - min(length, _LONGEST_NOTE))
            note = json.loads(file.read(length))
            if (note["format"], note["size"], note["tag"]) != (_FORMAT, *stat):
                return None
            samples = (size - 8 - length) // 4
            return ShardIndex(str(path), *stat, samples, note["others"], note["fault"], note["fault_offset"])
    except (OSError, ValueError, TypeError, LookupError):
        return None

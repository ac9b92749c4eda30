"""A folder of embeddings: shards of successive examples of a source, and a manifest that says whose they are.

    embeddings.json             weights, transforms, source; examples, rows of a shard, format
    00000.parquet               columns `index`, `key`, and for each input a list of float32
    00000.bad.jsonl             the examples of this shard that were bad records, which it leaves out

or as npy files `00000.<input>.npy` [n, D], `00000.key.npy` and `00000.index.npy`, which comes last. Shard k is of
examples k * rows to (k + 1) * rows - 1, whoever wrote it with however many devices.
"""

import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

from bigcl.data.arrow import arrow_module
from bigcl.files import replacing, write_json_lines
from bigcl.registry import ConfigError, nearest

MANIFEST = "embeddings.json"
Format = Literal["npy", "parquet"]


class Rows(NamedTuple):
    """Some examples. indices: in the source; keys: what they are called there; embeddings: by input, of length 1."""

    indices: Int64[np.ndarray, " n"]
    keys: list[str]
    embeddings: dict[str, Float32[np.ndarray, "n d"]]


class Shards:
    """The shards of a folder. Raises ConfigError if the folder holds embeddings of another make.

    manifest: `examples`, `rows` and `format`, and whatever else must be the same for shards to belong together.
    """

    def __init__(self, folder: pathlib.Path, manifest: Mapping[str, Any]):
        self.folder, self.manifest = folder, json.loads(json.dumps(manifest))
        self.rows, self.size, self.format = manifest["rows"], manifest["examples"], manifest["format"]
        if self.format == "parquet":
            arrow_module()

    @classmethod
    def open(cls, folder: pathlib.Path) -> "Shards":
        """The shards that a folder holds. Raises FileNotFoundError."""
        if not (folder / MANIFEST).exists():
            raise FileNotFoundError(
                f"{folder / MANIFEST} is not there; `python -m bigcl.embed --out {folder}` writes it"
            )
        manifest = read_manifest(folder / MANIFEST)
        if lacking := [key for key in ("inputs", "examples", "rows", "format") if key not in manifest]:
            raise ConfigError(f"{folder / MANIFEST}: says nothing of {', '.join(lacking)}; run bigcl.embed again")
        return cls(folder, manifest)

    def begin(self) -> None:
        """Writes the manifest, or compares it with the one that is there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / MANIFEST
        if path.exists():
            old = read_manifest(path)
            if old != self.manifest:
                key = next(k for k in {**old, **self.manifest} if old.get(k) != self.manifest.get(k))
                raise ConfigError(
                    f"--out: {self.folder} holds embeddings of another {key}: {old.get(key)!r}, not "
                    f"{self.manifest.get(key)!r}; choose another folder"
                )
        with replacing(path) as partial:
            partial.write_text(json.dumps(self.manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def __len__(self) -> int:
        return -(-self.size // self.rows)

    def examples(self, number: int) -> range:
        """The examples of a shard."""
        return range(number * self.rows, min(self.size, (number + 1) * self.rows))

    def path(self, number: int, name: str = "") -> pathlib.Path:
        """A file of a shard; without a name, the one that is there if the shard is whole."""
        whole = "parquet" if self.format == "parquet" else "index.npy"
        return self.folder / f"{number:05d}.{name or whole}"

    def missing(self) -> list[int]:
        """The shards that are not there."""
        return [number for number in range(len(self)) if not self.path(number).exists()]

    def write_bad(self, number: int, bad: Sequence[Mapping[str, Any]]) -> None:
        """Lists the bad records of a shard, if there are any."""
        if bad:
            write_json_lines(self.path(number, "bad.jsonl"), bad)

    def write(self, number: int, rows: Rows) -> None:
        """Writes a shard."""
        if self.format == "parquet":
            with replacing(self.path(number)) as partial:
                arrow_module("pyarrow.parquet").write_table(as_table(rows), partial)
            return
        arrays = {**rows.embeddings, "key": np.array(rows.keys, np.str_), "index": rows.indices}
        for name, array in arrays.items():
            with replacing(self.path(number, f"{name}.npy")) as partial, partial.open("wb") as file:
                np.save(file, array, allow_pickle=False)

    def read(self, number: int, inputs: list[str]) -> Rows:
        """A shard, with the embeddings of these inputs."""
        if self.format == "parquet":
            table = arrow_module("pyarrow.parquet").read_table(self.path(number), columns=["index", "key", *inputs])
            found = {name: matrix(table[name].combine_chunks()) for name in inputs}
            return Rows(table["index"].to_numpy(), table["key"].to_pylist(), found)
        index, key, *arrays = (np.load(self.path(number, f"{name}.npy")) for name in ("index", "key", *inputs))
        return Rows(index, key.tolist(), dict(zip(inputs, arrays, strict=True)))

    def __iter__(self) -> Iterator[Rows]:
        """All shards with all inputs. Raises ConfigError if some are missing."""
        if missing := self.missing():
            raise ConfigError(f"{self.folder}: {len(missing)} of {len(self)} shards are missing; run bigcl.embed again")
        return (self.read(number, self.manifest["inputs"]) for number in range(len(self)))

    def table(self, name: str) -> tuple[Int64[np.ndarray, " n"], list[str], Float32[np.ndarray, "n d"]]:
        """All examples: their numbers, what they are called, and the embeddings of one input. Raises ConfigError if
        there is no such input, or shards are missing."""
        if name not in self.manifest["inputs"]:
            raise ConfigError(f"{self.folder} has no {name!r}; {nearest(name, self.manifest['inputs'])}")
        rows = list(self)
        indices, found = (np.concatenate(x) for x in ([r.indices for r in rows], [r.embeddings[name] for r in rows]))
        return indices, [key for r in rows for key in r.keys], found


def read_manifest(path: pathlib.Path) -> dict[str, Any]:
    """What a manifest says. Raises ConfigError if it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is damaged: {error}; remove it and embed again") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path} is no manifest of embeddings; remove it and embed again")
    return found


def as_table(rows: Rows) -> Any:
    """Rows as a `pyarrow.Table`."""
    arrow = arrow_module()
    columns = {"index": arrow.array(rows.indices), "key": arrow.array(rows.keys, arrow.string())}
    for name, x in rows.embeddings.items():
        columns[name] = arrow.FixedSizeListArray.from_arrays(arrow.array(x.ravel()), x.shape[1])
    return arrow.table(columns)


def matrix(column: Any) -> Float32[np.ndarray, "n d"]:
    """A column of lists of equal length."""
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)

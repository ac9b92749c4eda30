"""An index of the embeddings of one input, by faiss (Douze et al. 2024)."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64, UInt8
from tqdm.auto import tqdm

from bigcl.embeddings import Shards
from bigcl.files import replacing
from bigcl.registry import ConfigError, nearest

EXACT = 1_000_000
"""Up to so many items all are compared; beyond, a graph is walked (HNSW, Malkov and Yashunin 2018), which may miss
some."""
_LINKS = 32
_VISITED = 256

MANIFEST, VECTORS, ARRAYS = "index.json", "vectors.faiss", ("indices", "keys", "key_ends")


def faiss() -> Any:
    """The library. Raises ImportError that names the extra."""
    try:
        import faiss as library
    except ImportError as error:
        raise ImportError(f'an index needs faiss: pip install "bigcl[search]" ({error})') from error
    return library


class Keys:
    """What items are called, however long: UTF-8 in one piece, and where each ends."""

    def __init__(self, text: UInt8[np.ndarray, " m"], ends: Int64[np.ndarray, " n"]):
        self.text, self.ends = text, ends

    @classmethod
    def of(cls, names: Sequence[str]) -> "Keys":
        """Keys from strings."""
        encoded = [name.encode() for name in names]
        return cls(np.frombuffer(b"".join(encoded), np.uint8), np.cumsum([len(x) for x in encoded], dtype=np.int64))

    @classmethod
    def joined(cls, parts: Sequence["Keys"]) -> "Keys":
        """One after the other."""
        starts = np.cumsum([0, *(len(part.text) for part in parts[:-1])])
        ends = [part.ends + start for part, start in zip(parts, starts, strict=True)]
        return cls(np.concatenate([part.text for part in parts]), np.concatenate(ends))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, item: int) -> str:
        start = self.ends[item - 1] if item > 0 else 0
        return self.text[start : self.ends[item]].tobytes().decode()


class Index:
    """Items and their embeddings.

    vectors: faiss's index, by inner product.  indices, keys: which examples of the source they are.
    manifest: `input`, `search` and `embeddings`, the manifest of the folder it was made of.
    """

    def __init__(self, vectors: Any, indices: Int64[np.ndarray, " n"], keys: Keys, manifest: Mapping[str, Any]):
        self.vectors, self.indices, self.keys, self.manifest = vectors, indices, keys, dict(manifest)

    def __len__(self) -> int:
        return len(self.indices)

    @classmethod
    def build(cls, embeddings: pathlib.Path, name: str | None = None) -> "Index":
        """An index of a folder of embeddings. name: the input; default image where there is one, else the first.

        Raises ConfigError for an input that is not there, and for a folder that is not whole.
        """
        shards = Shards.open(embeddings)
        there = shards.manifest["inputs"]
        name = name or ("image" if "image" in there else there[0])
        if name not in there:
            raise ConfigError(f"--input {name}: the embeddings are of others; {nearest(name, there)}")
        vectors, indices, keys = None, [], []
        with tqdm(total=shards.size, desc="indexing", unit=" items", delay=1, disable=None) as bar:
            for rows in shards:
                x = rows.embeddings[name]
                vectors = empty(x.shape[1], shards.size) if vectors is None else vectors
                vectors.add(np.ascontiguousarray(x))
                indices.append(rows.indices)
                keys.append(Keys.of(rows.keys))
                bar.update(len(x))
        if vectors is None or not any(map(len, keys)):
            raise ConfigError(f"{embeddings}: no embeddings")
        search = "exact" if shards.size <= EXACT else "approximate"
        manifest = {"input": name, "search": search, "embeddings": shards.manifest}
        return cls(vectors, np.concatenate(indices), Keys.joined(keys), manifest)

    def save(self, folder: pathlib.Path) -> None:
        """Writes the index into a folder; one that is there is replaced."""
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / VECTORS) as partial:
            faiss().write_index(self.vectors, str(partial))
        for name, array in zip(ARRAYS, (self.indices, self.keys.text, self.keys.ends), strict=True):
            with replacing(folder / f"{name}.npy") as partial, partial.open("wb") as file:
                np.save(file, array, allow_pickle=False)
        with replacing(folder / MANIFEST) as partial:
            partial.write_text(json.dumps(self.manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def open(cls, folder: pathlib.Path) -> "Index":
        """Reads an index. Raises FileNotFoundError if the folder holds none, or an old one."""
        if missing := [name for name in (MANIFEST, *(f"{x}.npy" for x in ARRAYS)) if not (folder / name).exists()]:
            raise FileNotFoundError(
                f"--index: {folder} holds no index, as it has no {missing[0]}; python -m bigcl.search build makes one"
            )
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        indices, *keys = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS)
        return cls(faiss().read_index(str(folder / VECTORS)), indices, Keys(*keys), manifest)

    def nearest(self, query: Float32[np.ndarray, " d"], count: int) -> list[tuple[int, float]]:
        """Position and cosine of the items nearest to an embedding of length 1, the nearest first."""
        scores, positions = self.vectors.search(np.ascontiguousarray(query[None]), min(count, len(self)))
        return [(int(p), float(s)) for p, s in zip(positions[0], scores[0], strict=True) if p >= 0]

    def embedding(self, position: int) -> Float32[np.ndarray, " d"]:
        """The embedding of an item."""
        return self.vectors.reconstruct(position)


def empty(width: int, size: int) -> Any:
    """An index for `size` vectors of this width."""
    library = faiss()
    if size <= EXACT:
        return library.IndexFlatIP(width)
    graph = library.IndexHNSWFlat(width, _LINKS, library.METRIC_INNER_PRODUCT)
    graph.hnsw.efSearch = _VISITED
    return graph

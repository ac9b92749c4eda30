"""Queries: a text, a picture or an item in, the nearest items out."""

import pathlib
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from bigcl import registry
from bigcl.data.sources import BadRecord, Source, readable, source_name
from bigcl.data.tokenizers import as_text
from bigcl.pretrained import Pretrained
from bigcl.registry import ConfigError
from bigcl.search.index import Index


class Hit(NamedTuple):
    """An item found. item: its position in the index; score: cosine; text: what the source says of it, or ""."""

    item: int
    key: str
    score: float
    text: str
    picture: bool


class Engine:
    """An index with the weights that embed queries and the source of its items; for several threads."""

    def __init__(self, index: Index, model: Pretrained, source: Source):
        self.index, self.model, self.source = index, model, source
        self.lock = threading.Lock()
        width = index.embedding(0).shape
        if (found := self.embed(self.sample()).shape) != width:
            raise ConfigError(f"--checkpoint: its embeddings have {found[0]} numbers, those of the index {width[0]}")

    @classmethod
    def open(cls, folder: pathlib.Path, checkpoint: pathlib.Path | None = None) -> "Engine":
        """Opens an index. checkpoint: None for the weights that the data was embedded with."""
        index = Index.open(folder)
        made = index.manifest["embeddings"]
        where = pathlib.Path(made["model"]["checkpoint"]) if checkpoint is None else checkpoint
        if not where.exists():
            raise FileNotFoundError(f"the weights are no longer at {where}; say where by --checkpoint")
        step = made["model"].get("step") if checkpoint is None else None
        model = Pretrained.open(where, step)
        if checkpoint is None and model.identity["weights"] != made["model"].get("weights"):
            raise ConfigError(
                f"{where} does not hold the weights that {folder} was made with; embed the data again, or name others "
                "by --checkpoint"
            )
        return cls(index, model, registry.build("source", made["source"]))

    def sample(self) -> Mapping[str, Any]:
        """A first query, which also compiles the tower of texts, or where there is none, that of the items."""
        return {"text": "a"} if "text" in self.model.inputs else self.example(0)

    def describe(self) -> dict[str, Any]:
        """What is searched in, for the page."""
        model = self.index.manifest["embeddings"]["model"]
        return {
            "size": len(self.index),
            "source": source_name(self.source),
            "input": self.index.manifest["input"],
            "model": pathlib.Path(model["checkpoint"]).name,
            "step": model.get("step"),
            "reads": self.model.inputs,
            "attribution": getattr(self.source, "attribution", None),
        }

    def by_text(self, text: str, count: int) -> list[Hit]:
        """The items nearest to a text. Raises ConfigError for a text or a model that has nothing to read."""
        return self.hits(self.embed({"text": text}), count)

    def by_picture(self, data: bytes, count: int) -> list[Hit]:
        """The items nearest to a picture in any common format. Raises ConfigError for what is none."""
        return self.hits(self.embed({"image": data}), count)

    def by_item(self, item: int, count: int) -> list[Hit]:
        """The items nearest to one of them. Raises IndexError."""
        if not 0 <= item < len(self.index):
            raise IndexError(f"item {item}: there are {len(self.index):,}")
        return self.hits(self.index.embedding(item), count)

    def embed(self, example: Mapping[str, Any]) -> Float32[np.ndarray, " d"]:
        """The embedding of one input."""
        name = next((n for n in example if n in self.model.inputs), None)
        if name is None:
            raise ConfigError(f"the model reads {', '.join(self.model.inputs)}, and not {', '.join(example)}")
        prepared: Any = {name: example[name]}
        try:
            for transform in self.model.prepare([name]):
                prepared = transform(prepared, np.random.default_rng(0))
        except BadRecord as error:
            raise ConfigError(error.reason) from error
        with self.lock:
            return self.model.encode({k: v[None] for k, v in self.model.reads(prepared).items()})[name][0]

    def hits(self, query: Float32[np.ndarray, " d"], count: int) -> list[Hit]:
        """The items nearest to an embedding."""
        return [self.hit(item, score) for item, score in self.index.nearest(query, count)]

    def hit(self, item: int, score: float) -> Hit:
        """An item with what the source says of it."""
        example = self.example(item)
        text = example.get("text")
        said = as_text(text) if isinstance(text, str | bytes) else ""
        return Hit(item, self.index.keys[item], score, said, isinstance(example.get("image"), bytes | np.ndarray))

    def example(self, item: int) -> Mapping[str, Any]:
        """The example of an item, empty if it cannot be read."""
        return readable(self.source.__getitem__, int(self.index.indices[item]))

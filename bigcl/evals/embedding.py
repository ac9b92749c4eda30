"""One pass over a source: every example embedded once, whatever the number of processes, and its label read."""

import contextlib
import warnings
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Float, Float32, Int32

from bigcl import registry
from bigcl.data.loader import pad_batches
from bigcl.data.sources import BadRecord, Example, Source
from bigcl.data.sources.arrays import Arrays
from bigcl.data.tokenizers import Tokenizer
from bigcl.data.transforms import Transform, lookup
from bigcl.evals import Encode
from bigcl.evals.metrics import class_numbers, several
from bigcl.registry import ConfigError, Part, nearest


class Examples:
    """A source as evaluators read it: embeddings of its inputs, and values of its keys."""

    def __init__(self, source: Part, transforms: Sequence[Part], tokenizer: Tokenizer | None, batch: int):
        self.source: Source = registry.build("source", source)
        self.transforms: list[Transform] = [registry.build("transform", t, tokenizer=tokenizer) for t in transforms]
        self.batch = batch
        self.columns: dict[str, list[Any]] = {}

    def __len__(self) -> int:
        return len(self.source)

    def embed(self, encode: Encode, *inputs: str, **renamed: str) -> dict[str, Float32[np.ndarray, "n d"]]:
        """Embeddings [N, D] of each input; as keywords, of the key of a batch by the tower of an input:
        `negative="text"` embeds what the transforms leave at "negative" as a text."""
        names = {**{name: name for name in inputs}, **renamed}
        return embed(self.source, self.transforms, encode, inputs=names, batch=self.batch)

    def column(self, key: str) -> list[Any]:
        """The value at `key` ("a/b" for nested ones) of each example; read once."""
        if key not in self.columns:
            self.columns[key] = labels(self.source, key)
        return self.columns[key]

    def labelled(
        self, encode: Encode, name: str | Sequence[str], label: str, classes: Sequence[Any] | None = None
    ) -> tuple[list[Any], Float32[np.ndarray, "n d"], Int32[np.ndarray, "n"]]:
        """Class names, embeddings and classes of the examples that have a label. name: an input, or several, whose
        embeddings stand side by side. classes: names to count in, or None for the labels that occur, sorted."""
        names, target = class_numbers(self.column(label), classes)
        keep = np.flatnonzero(target >= 0)
        if not len(keep):
            raise ConfigError(f"evaluator: no example of the source has a label at {label!r}")
        inputs = [name] if isinstance(name, str) else list(name)
        found = self.embed(encode, *inputs)
        return names, np.concatenate([found[key] for key in inputs], 1)[keep], target[keep]


def embed(
    source: Source,
    transforms: Sequence[Transform],
    encode: Encode,
    *,
    inputs: Iterable[str] | Mapping[str, str],
    batch: int,
) -> dict[str, Float32[np.ndarray, "n d"]]:
    """Embeddings of each of `inputs`, row i for example i of the source, whole on every process.

    inputs: outputs of `encode`; as a dict, key of the batch -> input whose tower embeds it.
    batch: rows of a global batch, of which each process embeds its equal share.

    A row that is not finite becomes zero, so that every score of it is a tie, with a warning that says how many are.
    Raises ConfigError for an input that `encode` does not give, and for a source without examples.
    """
    if not len(source):
        raise ConfigError("evaluator: the source is empty")
    if isinstance(inputs, Mapping):
        encode = renaming(encode, inputs)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in inputs}
    indices = []
    share = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    with contextlib.closing(pad_batches(source, transforms, batch=batch, **share)) as batches:
        for rows in batches:
            indices.append(np.where(rows.pop("valid"), rows.pop("index"), -1).astype(np.int32))
            outputs = encode(rows)
            for name, part in parts.items():
                if name not in outputs:
                    raise ConfigError(f"evaluator: no input {name!r} was embedded; {nearest(name, outputs)}")
                part.append(np.asarray(outputs[name], np.float32))
    index, found = np.concatenate(indices), {name: np.concatenate(part) for name, part in parts.items()}
    if jax.process_count() > 1:
        index, found = multihost_utils.process_allgather((index, found), tiled=True)
    order = np.argsort(index)[np.count_nonzero(index < 0) :]  # rows that only fill the last batch have index -1
    return {name: finite(x[order], name) for name, x in found.items()}


def finite(x: Float32[np.ndarray, "n d"], name: str) -> Float32[np.ndarray, "n d"]:
    """Embeddings with zeros in the place of rows that are not finite."""
    good = np.isfinite(x).all(1)
    if good.all():
        return x
    bad = len(x) - good.sum()
    warnings.warn(f"{bad} of {len(x)} embeddings of {name!r} are not finite; they count as zeros", stacklevel=3)
    return np.where(good[:, None], x, np.float32(0))


def renaming(encode: Encode, inputs: Mapping[str, str]) -> Encode:
    """Embeds keys of the batch by the towers of the inputs that they stand for; in one call where the names are the
    same."""
    if all(key == name for key, name in inputs.items()):
        return encode

    def each(rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = {}
        for key, name in inputs.items():
            if key not in rows:
                raise ConfigError(f"evaluator: no {key!r} in a batch; {nearest(key, rows)}")
            beside = {f"{name}{x}": rows[f"{key}{x}"] for x in ("_mask", "_shape") if f"{key}{x}" in rows}
            outputs = encode({name: rows[key], **beside})
            if name not in outputs:
                raise ConfigError(f"evaluator: no input {name!r} was embedded; {nearest(name, outputs)}")
            found[key] = outputs[name]
        return found

    return each


def embed_texts(
    texts: Sequence[str], tokenizer: Tokenizer, encode: Encode, *, length: int, query: str, batch: int
) -> Float32[np.ndarray, "n d"]:
    """Embeddings of texts by the tower of the input `query`. length: in tokens."""
    rows = Arrays({query: tokenizer(list(texts), length)})
    return embed(rows, [], encode, inputs=[query], batch=batch)[query]


def unit(x: np.ndarray) -> np.ndarray:
    """Rows of length 1; a zero row stays zero."""
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def cosine_distance(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "d"]) -> Float[np.ndarray, "n"]:
    """`1 - cos` of each row with one vector: of texts with an image that shows nothing, how visual they are (Verma et
    al. 2023, "Learning the Visualness of Text Using Large Vision-Language Models")."""
    return 1 - unit(x) @ unit(y)


def group(values: Sequence[Hashable | None]) -> Int32[np.ndarray, "n"]:
    """A number for each distinct value, one label or a list of them; each None gets its own."""
    numbers: dict[Any, int] = {}
    keys = [i if value is None else (tuple(several(value)),) for i, value in enumerate(values)]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int32)


def labels(source: Source, key: str) -> list[Any]:
    """The value at `key` of each example ("a/b" for nested ones); batches hold numbers only, so the source is read.

    Raises KeyError if an example has none; BadRecord, which says where it lies, if one cannot be read."""

    def label(example: Example) -> Any:
        try:
            return lookup(example, key)
        except BadRecord as error:
            raise KeyError(error.reason) from error

    return [label(dict(source[i])) for i in range(len(source))]

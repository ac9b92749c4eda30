"""One pass over a source: every example embedded once, whatever the number of processes, and its label read."""

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Float32

from bigcl.data.loader import pad_batches
from bigcl.data.sources import Source
from bigcl.data.transforms import Transform, lookup
from bigcl.evals import Encode
from bigcl.registry import ConfigError, nearest


def embed(
    source: Source, transforms: Sequence[Transform], encode: Encode, *, inputs: Iterable[str], batch: int
) -> dict[str, Float32[np.ndarray, "n d"]]:
    """Embeddings of each of `inputs`, row i for example i of the source, whole on every process.

    batch: rows of a global batch, of which each process embeds its equal share. Raises ConfigError for an input that
    `encode` does not give.
    """
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
    return {name: x[order] for name, x in found.items()}


def labels(source: Source, key: str) -> list[Any]:
    """The value at `key` of each example ("a/b" for nested ones); batches hold numbers only, so the source is read."""
    return [lookup(dict(source[i]), key) for i in range(len(source))]

"""Sources that need no files: arrays in memory, and made-up examples of any shape."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bigcl.data.sources import Example


class Arrays:
    """Rows of arrays (or lists) of equal length: example i is `{key: array[i]}`."""

    def __init__(self, arrays: Mapping[str, Any]):
        lengths = {key: len(array) for key, array in arrays.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"arrays: need at least one, all of the same length, got {lengths}")
        self.arrays, self.size, self.name = dict(arrays), next(iter(lengths.values())), "arrays"

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Example:
        return {key: array[index] for key, array in self.arrays.items()}


class Synthetic:
    """Random examples for measuring speed: a function of (seed, index), no data needed.

    spec: key -> `{"shape": [...], "dtype": "uint8", "high": 256}`. Integers are even in [0, high), where high defaults
        to all that the type holds; floats are standard normal; booleans are fair.
    """

    def __init__(self, spec: Mapping[str, Mapping[str, Any]], size: int = 10_000, seed: int = 0):
        for key, value in spec.items():
            if unknown := set(value) - {"shape", "dtype", "high"}:
                raise ValueError(f"synthetic.spec.{key}: unknown {sorted(unknown)}; known: dtype, high, shape")
        self.spec, self.size, self.seed, self.name = dict(spec), size, seed, "synthetic"

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self.size:
            raise IndexError(f"synthetic: index {index} of {self.size} examples")
        rng = np.random.Generator(np.random.Philox(key=np.array([self.seed, index], np.uint64)))
        return {key: draw(rng, **value) for key, value in self.spec.items()}


def draw(
    rng: np.random.Generator, shape: Sequence[int] = (), dtype: str = "float32", high: int | None = None
) -> np.ndarray:
    """One random array."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return np.asarray(rng.standard_normal(shape, np.float32), kind)
    if kind.kind == "b":
        return np.asarray(rng.integers(0, 2, shape, np.uint8), kind)
    return np.asarray(rng.integers(0, np.iinfo(kind).max if high is None else high - 1, shape, kind, endpoint=True))

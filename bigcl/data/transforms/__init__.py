"""Transforms: one example in, one example out.

A transform is a callable `transform(example: dict, rng: np.random.Generator) -> dict`, pure in both: all randomness
comes from `rng`, and what it gives may be the changed example itself, which belongs to it, but never a changed array of
the source.

One that changes the shape of what it makes from batch to batch has `forms`, a sequence of transforms: the examples of a
batch go through the same one of them, and the compiled step of a run knows the shapes of all.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from bigcl.data.sources import BadRecord, Example


class Transform(Protocol):
    """A function of one example."""

    def __call__(self, example: Example, rng: np.random.Generator, /) -> Example: ...


class Keep:
    """Drops every key but these.

    keys: what stays; as a dict, new name -> old name. Old names reach into nested dicts with slashes: {"text":
        "captions/text"}.
    """

    def __init__(self, keys: Sequence[str] | Mapping[str, str]):
        self.keys = dict(keys) if isinstance(keys, Mapping) else {k: k for k in keys}

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        return {new: lookup(example, old) for new, old in self.keys.items()}


def lookup(example: Example, path: str) -> object:
    """Value at "a/b/c" in nested dicts. Raises BadRecord that lists what is there."""
    value = example
    for part in path.split("/"):
        if not isinstance(value, dict) or part not in value:
            there = ", ".join(map(str, value)) if isinstance(value, dict) else type(value).__name__
            raise BadRecord(reason=f"{path!r}: no {part!r} in the example, which has {there}")
        value = value[part]
    return value


def field(example: Example, key: str) -> Any:
    """The value at a key. Raises BadRecord that lists what is there."""
    if key not in example:
        raise BadRecord(reason=f"no {key!r} in the example, which has {', '.join(example)}")
    return example[key]

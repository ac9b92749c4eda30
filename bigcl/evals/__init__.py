"""Evaluators: encoders in, named numbers out.

An evaluator is built from its config part, which says what data it reads; the program adds `mesh` and `tokenizer`. It
holds no parameters: `run` gets a function that embeds, so the same evaluator serves a run in training, a checkpoint and
another library's model.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

Encode = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]
"""A host batch of whatever keys the towers read -> L2-normalised float32 embeddings [b, D] of the inputs that are in
it. It may have an attribute `scale`, the inverse temperature that the model was trained to."""


def logit_scale(encode: Encode, default: float = 100.0) -> float:
    """The model's inverse temperature; the default is where CLIP's is clamped."""
    scale = getattr(encode, "scale", None)
    return default if scale is None else float(scale)


class Evaluator(Protocol):
    """`run` gives the numbers by name, the same on every process. After it, `artifacts` holds the arrays behind
    them."""

    artifacts: dict[str, Any]

    def run(self, encode: Encode, /) -> dict[str, float]: ...

"""From a retrieval evaluator that has run to the gallery that the report shows."""

from typing import Any

import numpy as np

from bigcl.data.transforms.text import as_text
from bigcl.report.gallery import Gallery

LIMIT = 1000
"""Pairs that a report holds at most; each brings a thumbnail."""


def collect(evaluators: dict[str, Any], scale: float) -> Gallery | None:
    """The gallery of the first retrieval evaluator whose pairs can be shown, pictures on one side and texts on the
    other, or None.

    scale: inverse temperature of the loss.
    """
    for evaluator in evaluators.values():
        found = getattr(evaluator, "artifacts", {})
        sides = getattr(evaluator, "item", None), getattr(evaluator, "query", None)
        if all(side in found for side in sides) and (gallery := show(evaluator, scale)) is not None:
            return gallery
    return None


def show(evaluator: Any, scale: float) -> Gallery | None:
    """The pairs of one evaluator, its first LIMIT ones, as pictures and texts."""
    source = evaluator.examples.source
    rows = range(min(LIMIT, len(source)))
    raw = [dict(source[i]) for i in rows]
    seen = [transformed(evaluator, example) for example in raw]
    if not all(is_picture(example.get(evaluator.item)) for example in seen) or not all(
        isinstance(example.get(evaluator.query), str | bytes) for example in raw
    ):
        return None
    return Gallery(
        images=evaluator.artifacts[evaluator.item][: len(raw)],
        texts=evaluator.artifacts[evaluator.query][: len(raw)],
        thumbnails=[example[evaluator.item] for example in seen],
        captions=[as_text(example[evaluator.query]) for example in raw],
        groups=[example.get("group") for example in raw],
        scale=scale,
        names=(evaluator.item, evaluator.query),
        attribution=getattr(source, "attribution", None),
    )


def transformed(evaluator: Any, example: dict[str, Any]) -> dict[str, Any]:
    """The example as the towers see it."""
    for transform in evaluator.examples.transforms:
        example = transform(example, np.random.default_rng(0))
    return example


def is_picture(value: Any) -> bool:
    """Whether a value can be shown as it is."""
    return isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 3 and value.shape[2] == 3

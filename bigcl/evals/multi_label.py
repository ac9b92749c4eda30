"""Zero-shot recognition of several labels at once."""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np

from bigcl.data.tokenizers import Tokenizer
from bigcl.evals import Encode
from bigcl.evals.embedding import Examples
from bigcl.evals.metrics import mean, sklearn
from bigcl.evals.prompts import ClassPrompts
from bigcl.registry import Part


class MultiLabel:
    """Ranks the examples for each class by similarity to its prompts, and the classes for each example.

    label: key of the example: a list of class names or numbers. Examples whose label is None are left out; an empty
        list is an example of no class.
    classes, prompts, templates, length, query, item, batch: as for `zero_shot`.

    mean_average_precision: the mean, over classes that occur, of the average precision (as scikit-learn defines it:
        precision summed over the steps of recall, ties together).  example_average_precision: the same the other way
        round, over the examples that have a label ("label ranking").

    After `run`, `artifacts` holds `index` [n], `scores` [n, C], `labels` bool [n, C], `classes`, and
    `average_precision` [C], NaN for classes that do not occur.
    """

    def __init__(
        self,
        *,
        source: Annotated[Part, "source"],
        transforms: Sequence[Annotated[Part, "transform"]] = (),
        label: str = "labels",
        classes: Sequence[str] | str | None = None,
        prompts: str = "name/1",
        templates: Sequence[str] | None = None,
        length: int,
        query: str = "text",
        item: str = "image",
        batch: int = 200,
        tokenizer: Tokenizer | None = None,
    ):
        self.prompts = ClassPrompts(
            "multi_label",
            classes=classes,
            templates=templates,
            prompts=prompts,
            length=length,
            query=query,
            batch=batch,
            tokenizer=tokenizer,
        )
        self.examples = Examples(source, transforms, tokenizer, batch)
        self.label, self.item = label, item
        self.metrics = sklearn("metrics")
        self.artifacts: dict[str, Any] = {}

    def run(self, encode: Encode) -> dict[str, float]:
        values = self.examples.column(self.label)
        names, classes = self.prompts.resolve(values, self.examples.source, self.label)
        index = np.array([i for i, v in enumerate(values) if v is not None])
        right = np.zeros((len(index), len(names)), bool)
        for row, i in enumerate(index):
            right[row, classes[i]] = True
        scores = self.examples.embed(encode, self.item)[self.item][index] @ self.prompts.embed(names, encode).T
        by_class = np.full(len(names), np.nan)
        for c in np.flatnonzero(right.any(0)):
            by_class[c] = self.metrics.average_precision_score(right[:, c], scores[:, c])
        labelled = right.any(1)
        self.artifacts = {
            "index": index,
            "scores": scores,
            "labels": right,
            "classes": names,
            "average_precision": by_class,
        }
        return {
            "mean_average_precision": mean(by_class[right.any(0)]),
            "example_average_precision": mean(
                [
                    self.metrics.average_precision_score(r, s)
                    for r, s in zip(right[labelled], scores[labelled], strict=True)
                ]
            ),
            "classes": float(right.any(0).sum()),
            "examples": float(len(index)),
        }

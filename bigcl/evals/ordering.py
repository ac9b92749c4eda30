"""Whether embeddings lie in the order of a number."""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np

from bigcl.data.tokenizers import Tokenizer
from bigcl.evals import Encode
from bigcl.evals.embedding import Examples, unit
from bigcl.evals.metrics import spearman
from bigcl.registry import ConfigError, Part


class Ordering:
    """Rank correlation, over all pairs of examples, of the cosine distance of their embeddings with the difference of
    their values: 1 where examples are the further apart the more their values differ (as Zha et al. 2023, "Rank-N-
    Contrast", and SupReMix, Wu et al. 2023, judge continuous labels).

    value: key of the number; examples where it is None are left out.  item: the tower's input.
    most: examples; of more, the first so many.

    spearman: the correlation, 0 where either is constant.
    """

    def __init__(
        self,
        *,
        source: Annotated[Part, "source"],
        transforms: Sequence[Annotated[Part, "transform"]] = (),
        value: str = "value",
        item: str = "image",
        most: int = 2_000,
        batch: int = 200,
        tokenizer: Tokenizer | None = None,
    ):
        self.examples = Examples(source, transforms, tokenizer, batch)
        self.value, self.item, self.most = value, item, most
        self.artifacts: dict[str, Any] = {}

    def run(self, encode: Encode) -> dict[str, float]:
        column = self.examples.column(self.value)
        index = [i for i, v in enumerate(column) if v is not None][: self.most]
        if len(index) < 3:
            raise ConfigError(f"ordering.value: {len(index)} examples have {self.value!r}; three or more make an order")
        x = unit(self.examples.embed(encode, self.item)[self.item][index])
        y = np.array([column[i] for i in index], np.float64)
        first, second = np.triu_indices(len(y), 1)
        found = spearman(1 - (x @ x.T)[first, second], np.abs(y[first] - y[second]))
        return {"spearman": found, "examples": float(len(y))}

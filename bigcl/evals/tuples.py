"""Finding one input of a tuple from all others."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np

from bigcl.data.tokenizers import Tokenizer
from bigcl.evals import Encode
from bigcl.evals.embedding import Examples
from bigcl.evals.metrics import mean
from bigcl.evals.ranks import TIE
from bigcl.registry import ConfigError, Part


class Tuples:
    """The right value of the input `find` among all its values, from the inputs `given` (Symile, Saporta et al. 2024).

    score: of a candidate with what is given: "product", the multilinear inner product of all embeddings, or "sum", the
        inner products with each.
    asking: key that says which examples are counted; the others do no more than offer their values. None: all are.
    values: the most candidates there may be.

    accuracy: the share of examples whose own value scores highest; equal scores are wrong.  chance: one over the number
    of candidates.
    """

    def __init__(
        self,
        *,
        source: Annotated[Part, "source"],
        transforms: Sequence[Annotated[Part, "transform"]] = (),
        find: str,
        given: Sequence[str],
        score: Literal["product", "sum"] = "product",
        asking: str | None = None,
        values: int = 1_000,
        batch: int = 500,
        tokenizer: Tokenizer | None = None,
    ):
        if not given or find in given:
            raise ConfigError(f"tuples.given: expected inputs other than {find!r}, got {list(given)}")
        self.examples = Examples(source, transforms, tokenizer, batch)
        self.find, self.given, self.score, self.values = find, tuple(given), score, values
        self.asking = asking
        self.artifacts: dict[str, Any] = {}

    def run(self, encode: Encode) -> dict[str, float]:
        found = self.examples.embed(encode, self.find, *self.given)
        keys = [np.asarray(value).tobytes() for value in self.examples.column(self.find)]
        _, first, own = np.unique(np.array(keys, object), return_index=True, return_inverse=True)
        if len(first) > self.values:
            raise ConfigError(f"tuples.values: {self.find!r} has {len(first):,} of them, more than {self.values:,}")
        combine = np.prod if self.score == "product" else np.sum
        counted = slice(None) if self.asking is None else np.array(self.examples.column(self.asking), bool)
        own, query = own[counted], combine(np.stack([found[name][counted] for name in self.given]), axis=0)
        scores = query @ found[self.find][first].T
        right = scores[np.arange(len(own)), own]
        above = (scores > right[:, None] - TIE).sum(1)
        return {"accuracy": mean(above == 1), "chance": 1 / len(first), "examples": float(len(own))}

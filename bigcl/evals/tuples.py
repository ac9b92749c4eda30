"""Finding one input of a tuple from all others."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import jax.numpy as jnp
import numpy as np

from bigcl.data.tokenizers import Tokenizer
from bigcl.evals import Encode
from bigcl.evals.embedding import Examples
from bigcl.evals.metrics import mean
from bigcl.evals.ranks import TIE
from bigcl.losses.multilinear import multilinear_scores, pairwise_scores
from bigcl.registry import ConfigError, Part


class Tuples:
    """The right value of the input `find` among all its values, from the inputs `given` (Symile, Saporta et al. 2024).

    score: of a candidate with what is given: "product", the multilinear inner product of all embeddings, or "sum", the
        inner products of all pairs among them.
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
        counted = slice(None) if self.asking is None else np.array(self.examples.column(self.asking), bool)
        own, queries = own[counted], [jnp.asarray(found[name][counted]) for name in self.given]
        score = multilinear_scores if self.score == "product" else pairwise_scores
        scores = np.array(score(*queries, candidates=jnp.asarray(found[self.find][first])))
        right = scores[np.arange(len(own)), own]
        scores[np.arange(len(own)), own] = -np.inf
        ahead = (scores < right[:, None] - TIE).all(1)
        return {"accuracy": mean(ahead), "chance": 1 / len(first), "examples": float(len(own))}

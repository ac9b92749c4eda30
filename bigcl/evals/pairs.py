"""Compositional pairs and order tests: is the right text nearer than one that differs in a word or in word order?"""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from bigcl.data.tokenizers import Tokenizer
from bigcl.evals import Encode
from bigcl.evals.embedding import Examples
from bigcl.evals.metrics import mean, per_group
from bigcl.evals.ranks import TIE
from bigcl.registry import ConfigError, Part


class Pairs:
    """Scores of each example's own items and texts against one another.

    One item and several texts, the first of them right: ARO (Yuksekgonul et al. 2023) and SugarCrepe (Hsieh et al.
    2023). As many items as texts, item i belonging to text i: Winoground (Thrush et al. 2022) and MMVP (Tong et al.
    2024). Equal scores are wrong.

    items, texts: keys of the batch, embedded by the towers of the inputs `item` and `query`.
    category: key of the subset; the same numbers are then reported for each, and their mean over subsets.

    text_score: the share of examples in which each item is nearest to its own text.  image_score: each text nearest to
    its own item.  group_score: both. With one item there is the text score alone. `chance` is the text score of random
    scores. After `run`, `artifacts` holds `scores` [N, items, texts].
    """

    def __init__(
        self,
        *,
        source: Annotated[Part, "source"],
        transforms: Sequence[Annotated[Part, "transform"]] = (),
        items: Sequence[str] = ("image",),
        texts: Sequence[str] = ("text", "negative"),
        item: str = "image",
        query: str = "text",
        category: str | None = None,
        batch: int = 200,
        tokenizer: Tokenizer | None = None,
    ):
        if len(texts) < 2 or len(items) not in (1, len(texts)):
            raise ConfigError(
                f"pairs.items: expected one, or as many as texts (two or more), got {len(items)} and {len(texts)} texts"
            )
        self.examples = Examples(source, transforms, tokenizer, batch)
        self.items, self.texts, self.item, self.query, self.category = tuple(items), tuple(texts), item, query, category
        self.artifacts: dict[str, Any] = {}

    def run(self, encode: Encode) -> dict[str, float]:
        keys = {**dict.fromkeys(self.items, self.item), **dict.fromkeys(self.texts, self.query)}
        found = self.examples.embed(encode, **keys)
        items, texts = (np.stack([found[key] for key in keys], 1) for keys in (self.items, self.texts))
        scores = self.artifacts["scores"] = np.einsum("nid,ntd->nit", items, texts)
        right = judge(scores)
        numbers = {name: mean(values) for name, values in right.items()}
        if self.category is not None:
            groups = self.examples.column(self.category)
            numbers |= per_group(groups, lambda members: {name: mean(v[members]) for name, v in right.items()})
        count = len(self.texts)
        return {**numbers, "chance": float(count) ** -len(self.items), "examples": float(len(scores))}


def chosen(scores: Float[np.ndarray, "n c"], answer: Int[np.ndarray, "n"] | int) -> Bool[np.ndarray, "n"]:
    """Whether the first of the largest scores is that of the answer: the rule of ARO's own evaluation, where equal
    scores are right for an answer in front (word order) and wrong for one behind (relations, attributes)."""
    return scores.argmax(1) == answer


def judge(scores: Float[np.ndarray, "n i t"]) -> dict[str, Bool[np.ndarray, "n"]]:
    """For each kind of score whether an example is right."""
    own = np.einsum("nii->ni", scores[:, :, : scores.shape[1]])
    same = np.eye(*scores.shape[1:]) > 0
    text = ((own[:, :, None] > scores + TIE) | same).all((1, 2))
    if scores.shape[1] == 1:
        return {"text_score": text}
    image = ((own[:, None, :] > scores + TIE) | same).all((1, 2))
    return {"text_score": text, "image_score": image, "group_score": text & image}

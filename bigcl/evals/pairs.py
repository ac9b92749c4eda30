"""Compositional pairs and order tests: is the right text nearer than one that differs in a word or in word order?"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int64

from bigcl.data.mining import blind_pairs
from bigcl.data.tokenizers import Tokenizer
from bigcl.evals import Encode
from bigcl.evals.embedding import Examples
from bigcl.evals.metrics import mean, per_group
from bigcl.evals.ranks import TIE
from bigcl.registry import ConfigError, Part

LIMIT = 1_000_000
"""So many pairs of examples at most stand for all."""

Ties = Literal["wrong", "first", "last"]


class Pairs:
    """Scores of each example's own items and texts against one another.

    One item and several texts, the first of them right: ARO (Yuksekgonul et al. 2023) and SugarCrepe (Hsieh et al.
    2023). As many items as texts, item i belonging to text i: Winoground (Thrush et al. 2022) and MMVP (Tong et al.
    2024).

    items, texts: keys of the batch, embedded by the towers of the inputs `item` and `query`.
    category: key of the subset; the same numbers are then reported for each, and their mean over subsets.
    min_count: subsets of fewer examples are left out of these (25 of ARO's attribute pairs).
    ties: what equal scores are: "wrong"; or of equal ones the "first" of texts or items is chosen, as ARO's word order
        does, where the right one is in front; or the "last", as MMVP-VLM does.

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
        min_count: int = 1,
        ties: Ties = "wrong",
        batch: int = 200,
        tokenizer: Tokenizer | None = None,
    ):
        if len(texts) < 2 or len(items) not in (1, len(texts)):
            raise ConfigError(
                f"pairs.items: expected one, or as many as texts (two or more), got {len(items)} and {len(texts)} texts"
            )
        self.examples = Examples(source, transforms, tokenizer, batch)
        self.items, self.texts, self.item, self.query = tuple(items), tuple(texts), item, query
        self.category, self.min_count, self.ties = category, min_count, ties
        self.artifacts: dict[str, Any] = {}

    def run(self, encode: Encode) -> dict[str, float]:
        keys = {**dict.fromkeys(self.items, self.item), **dict.fromkeys(self.texts, self.query)}
        found = self.examples.embed(encode, **keys)
        items, texts = (np.stack([found[key] for key in keys], 1) for keys in (self.items, self.texts))
        scores = self.artifacts["scores"] = np.einsum("nid,ntd->nit", items, texts)
        right = judge(scores, self.ties)
        numbers = {name: mean(values) for name, values in right.items()}
        if self.category is not None:
            groups = self.examples.column(self.category)
            judged = lambda members: {name: mean(v[members]) for name, v in right.items()}  # noqa: E731
            numbers |= per_group(groups, judged, self.min_count)
        count = len(self.texts)
        return {**numbers, "chance": float(count) ** -len(self.items), "examples": float(len(scores))}


class BlindPairs:
    """Mines CLIP-blind pairs among the examples and scores them as MMVP does (Tong et al. 2024, sections 2 and 3),
    beside pairs as they come.

    alike, different: inputs whose towers, a contrastive and a self-supervised one, disagree.
    nearest, farthest: of all pairs the share `nearest` whose cosines of `alike` are largest, and of these the share
        `farthest` whose cosines of `different` are smallest. The paper's bounds on cosines, 0.95 and 0.6, are of two
        large models; shares serve any, and leave some pairs.
    item, query: the inputs that are scored, of one example item and text; `item` may be a third reader of the picture.

    Two items and their texts give the scores of `pairs`, as `blind/image_score` (each text chooses its own item, as in
    MMVP-VLM) and so on; `random/...`, those of all pairs, or a million of them; `drop/...`, the second minus the first;
    and `pairs`, how many were mined. After `run`, `artifacts` holds `pairs` [p, 2].
    """

    def __init__(
        self,
        *,
        source: Annotated[Part, "source"],
        transforms: Sequence[Annotated[Part, "transform"]] = (),
        alike: str = "image",
        different: str,
        item: str = "image",
        query: str = "text",
        nearest: float = 0.005,
        farthest: float = 0.5,
        batch: int = 200,
        tokenizer: Tokenizer | None = None,
    ):
        for name, share in {"nearest": nearest, "farthest": farthest}.items():
            if not 0 < share <= 1:
                raise ConfigError(f"blind_pairs.{name}: expected a share in (0, 1], got {share}")
        self.examples = Examples(source, transforms, tokenizer, batch)
        self.alike, self.different, self.item, self.query = alike, different, item, query
        self.nearest, self.farthest = nearest, farthest
        self.artifacts: dict[str, Any] = {}

    def run(self, encode: Encode) -> dict[str, float]:
        found = self.examples.embed(encode, *dict.fromkeys((self.alike, self.different, self.item, self.query)))
        if len(self.examples) < 2:
            raise ConfigError("blind_pairs.source: a single example makes no pair")
        usual = some_pairs(len(self.examples))
        near, far = (cosines(found[name], usual) for name in (self.alike, self.different))
        above = np.quantile(near, 1 - self.nearest, method="lower")
        below = np.quantile(far[near >= above], self.farthest, method="higher")
        pairs = self.artifacts["pairs"] = blind_pairs(
            found[self.alike], found[self.different], above=float(above) - TIE, below=float(below) + TIE
        )
        numbers: dict[str, float] = {}
        for name, those in {"blind": pairs, "random": usual}.items():
            scores = np.einsum("pid,ptd->pit", found[self.item][those], found[self.query][those])
            numbers |= {f"{name}/{kind}": mean(right) for kind, right in judge(scores).items()}
        kinds = [name.removeprefix("blind/") for name in numbers if name.startswith("blind/")]
        numbers |= {f"drop/{kind}": numbers[f"random/{kind}"] - numbers[f"blind/{kind}"] for kind in kinds}
        return {**numbers, "pairs": float(len(pairs)), "examples": float(len(self.examples))}


def judge(
    scores: Float[np.ndarray, "n i t"], ties: Ties = "wrong", tie: float = TIE
) -> dict[str, Bool[np.ndarray, "n"]]:
    """For each kind of score whether an example is right.

    ties: what equal scores are, see `Pairs`.  tie: scores that differ by no more are equal.
    """
    own = np.einsum("nii->ni", scores[:, :, : scores.shape[1]])
    places = np.indices(scores.shape[1:])
    i, j = places[0], places[1]
    even = {"wrong": np.zeros_like(i, bool), "first": i < j, "last": i > j}

    def ahead(own: Float[np.ndarray, "n _ _"], even: Bool[np.ndarray, "i t"]) -> Bool[np.ndarray, "n"]:
        return np.all((i == j) | np.where(even, own >= scores - tie, own > scores + tie), axis=(1, 2))

    text = ahead(own[:, :, None], even[ties])
    if scores.shape[1] == 1:
        return {"text_score": text}
    image = ahead(own[:, None, :], even[ties].T)
    return {"text_score": text, "image_score": image, "group_score": text & image}


def some_pairs(size: int) -> Int64[np.ndarray, "p 2"]:
    """All pairs i < j of so many examples, or a million random ones where there are more."""
    if size * (size - 1) // 2 <= LIMIT:
        return np.stack(np.triu_indices(size, 1), 1)
    first, step = np.random.default_rng(0).integers([[0], [1]], [[size], [size]], (2, LIMIT))
    return np.sort(np.stack([first, (first + step) % size], 1), 1)


def cosines(x: Float[np.ndarray, "n d"], pairs: Int64[np.ndarray, "p 2"]) -> Float[np.ndarray, "p"]:
    """Of embeddings of length 1."""
    return np.einsum("pd,pd->p", x[pairs[:, 0]], x[pairs[:, 1]])

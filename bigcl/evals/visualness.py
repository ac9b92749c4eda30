"""How well a text alone tells whether a picture could show it."""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from jaxtyping import Bool, Float

from bigcl.data.tokenizers import Tokenizer
from bigcl.data.transforms.null_image import null_image
from bigcl.evals import Encode
from bigcl.evals.embedding import Examples, cosine_distance
from bigcl.evals.metrics import macro_f1
from bigcl.registry import Part


class Visualness:
    """Texts by their visualness, `1 - cos` with the NULL image (Verma et al. 2023, "Learning the Visualness of Text
    Using Large Vision-Language Models"); examples whose picture is None are not visual.

    size, seed: of the NULL image, as for the transform `null_image`.

    Even examples choose the threshold, that of the best macro F1, the odd ones are judged by it: reported are
    macro_f1, accuracy and threshold. After `run`, `artifacts` holds `scores` and `visual`, both [N].
    """

    def __init__(
        self,
        *,
        source: Annotated[Part, "source"],
        transforms: Sequence[Annotated[Part, "transform"]] = (),
        size: int,
        seed: int = 0,
        query: str = "text",
        item: str = "image",
        batch: int = 200,
        tokenizer: Tokenizer | None = None,
    ):
        self.examples, self.null = Examples(source, transforms, tokenizer, batch), null_image(size, seed)
        self.query, self.item = query, item
        self.artifacts: dict[str, Any] = {}

    def run(self, encode: Encode) -> dict[str, float]:
        visual = np.array([picture is not None for picture in self.examples.column(self.item)])
        texts = self.examples.embed(encode, self.query)[self.query]
        scores = cosine_distance(texts, np.asarray(encode({self.item: self.null[None]})[self.item][0]))
        self.artifacts = {"scores": scores, "visual": visual}
        threshold = best_threshold(scores[::2], visual[::2])
        found = scores[1::2] > threshold
        return {
            "macro_f1": macro_f1(found, visual[1::2]),
            "accuracy": float((found == visual[1::2]).mean()),
            "threshold": threshold,
            "examples": float(len(found)),
        }


def best_threshold(scores: Float[np.ndarray, "n"], positive: Bool[np.ndarray, "n"]) -> float:
    """The score, of those that there are, above which to say yes for the best macro F1; the smallest of equals."""
    candidates = np.unique(scores)
    return float(max(candidates, key=lambda t: macro_f1(scores > t, positive)))

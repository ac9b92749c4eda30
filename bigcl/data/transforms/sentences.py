"""Sentences of long captions."""

import re
from collections.abc import Sequence

import numpy as np

from bigcl.data.sources import BadRecord, Example
from bigcl.data.transforms import field
from bigcl.data.transforms.text import is_blank, read_text


class SampleSentences:
    """Draws sub-captions from long captions, each a positive of its own (DreamLIP, Zheng et al. 2024).

    key: a text, or several, whose sentences are pooled; those that are None or blank do not count. Raises BadRecord if
        no sentence is left.
    out: where the sub-captions go, one each. They are different sentences as far as there are enough.
    merge: how many sentences that follow one another in a text make up a sub-caption.
    """

    def __init__(self, key: str | Sequence[str] = "text", out: Sequence[str] = ("text",), merge: int = 1):
        if merge < 1:
            raise ValueError(f"merge: expected 1 or more, got {merge}")
        self.keys, self.out, self.merge = [key] if isinstance(key, str) else list(key), list(out), merge

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        texts = [read_text(example, key) for key in self.keys if not is_blank(field(example, key))]
        found = [part for text in texts for part in merged(split_sentences(text), self.merge)]
        if not found:
            raise BadRecord(reason=f"no sentence at {self.keys}")
        places = rng.choice(len(found), len(self.out), replace=len(found) < len(self.out))
        return {**example, **{out: found[i] for out, i in zip(self.out, places, strict=True)}}


def split_sentences(text: str) -> list[str]:
    """The sentences of a generated caption: it is cut at full stops, line ends and end-of-text marks `</s>`."""
    return [part.strip() for part in re.split(r"\n|</s>|\.", text) if part.strip()]


def merged(sentences: Sequence[str], count: int) -> list[str]:
    """Every run of `count` sentences as one text; all of them where there are fewer."""
    runs = max(1, len(sentences) - count + 1) if sentences else 0
    return [". ".join(sentences[i : i + count]) for i in range(runs)]

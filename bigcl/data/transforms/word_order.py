"""Texts with their words in a wrong order, as hard negatives."""

from collections.abc import Mapping, Sequence

import numpy as np

from bigcl.data.parts_of_speech import tagger
from bigcl.data.sources import BadRecord, Example
from bigcl.data.transforms.text import read_text
from bigcl.data.word_order import CATEGORIES, SHUFFLES, Category, Shuffle, exchanges, shuffled
from bigcl.registry import ConfigError


class SwapWords:
    """The hard negatives of NegCLIP (Yuksekgonul et al. 2023): a caption with two nouns, adjectives, adverbs, verb
    phrases or noun phrases exchanged, see `bigcl.data.word_order.exchanges`. Raises BadRecord for one that has no two
    of any.

    words: parts of speech, see `bigcl.data.parts_of_speech.tagger`.
    out: where the negative goes; the category that was exchanged goes to `category`. First the category is drawn, of
        those that the caption has two of, then the two.
    """

    def __init__(
        self,
        words: Mapping[str, Sequence[str]] | str,
        key: str = "text",
        out: str = "negative",
        category: str = "category",
        categories: Sequence[Category] = CATEGORIES,
    ):
        self.tag, self.categories = tagger(words), tuple(categories)
        self.key, self.out, self.category = key, out, category

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        text = read_text(example, self.key)
        found = exchanges(text, self.tag(text), self.categories)
        if not found:
            raise BadRecord(reason=f"{self.key!r} has no two {', '.join(self.categories)} to exchange")
        category = [*found][rng.integers(len(found))]
        return {**example, self.out: found[category][rng.integers(len(found[category]))], self.category: category}


class ShuffleWords:
    """The wrong orders of ARO's order test (Yuksekgonul et al. 2023), each at a key of its own name, see
    `bigcl.data.word_order.SHUFFLES`.

    words: parts of speech, see `bigcl.data.parts_of_speech.tagger`; trigrams need none.
    """

    def __init__(
        self,
        words: Mapping[str, Sequence[str]] | str | None = None,
        key: str = "text",
        shuffles: Sequence[Shuffle] = SHUFFLES,
    ):
        needing = [kind for kind in shuffles if kind in ("nouns_adjectives", "others")]
        if words is None and needing:
            raise ConfigError(f"shuffle_words.words: {needing[0]!r} needs the parts of speech")
        self.tag = None if words is None else tagger(words)
        self.key, self.shuffles = key, tuple(shuffles)

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        text = read_text(example, self.key)
        words = [] if self.tag is None else self.tag(text)
        return {**example, **{kind: shuffled(text, kind, words, rng) for kind in self.shuffles}}

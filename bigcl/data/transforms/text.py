"""Transforms of text."""

import string
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from bigcl.data import cleaning
from bigcl.data.sources import BadRecord, Example
from bigcl.data.tokenizers import Tokenizer, as_text
from bigcl.data.transforms import field

OTHERS = "*"


class ChooseText:
    """Picks one of several texts; those that are None or blank do not count. Raises BadRecord if there are no others.

    key: a dict of texts by name, or a list of texts, or several keys, each of one text. A text alone is the choice.
    weights: how often each is picked, in proportion. By name; the weight of "*" is shared by all names that are not
        listed, and names that the example lacks are left out. For a list, numbers in its order, where texts beyond them
        are never picked. Or the key at which each example has its own weights, one for each text. None: every text
        equally often.
    """

    def __init__(
        self,
        key: str | Sequence[str] = "text",
        out: str = "text",
        weights: Mapping[str, float] | Sequence[float] | str | None = None,
    ):
        self.key, self.out, self.weights = key, out, weights

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        choices = field(example, self.key) if isinstance(self.key, str) else {k: field(example, k) for k in self.key}
        if is_blank(choices) or not isinstance(choices, Collection):
            raise BadRecord(reason=f"no text at {self.key!r}")
        if isinstance(choices, str | bytes):
            return {**example, self.out: choices}
        weights = self.weigh(choices, example)
        texts = list(choices.values()) if isinstance(choices, Mapping) else list(choices)
        weighted = [(t, w) for t, w in zip(texts, weights, strict=True) if not is_blank(t)]
        if not weighted:
            raise BadRecord(reason=f"no text at {self.key!r}")
        draw = rng.random() * sum(w for _, w in weighted)
        for text, weight in weighted:
            draw -= weight
            if draw < 0:
                return {**example, self.out: text}
        names = list(choices) if isinstance(choices, Mapping) else f"{len(choices)} texts"
        raise BadRecord(reason=f"{self.key!r}: all of {names} have weight 0")

    def weigh(self, choices: Any, example: Example) -> Sequence[float]:
        """One weight for each text of the example."""
        weights = field(example, self.weights) if isinstance(self.weights, str) else self.weights
        if weights is None:
            return [1.0] * len(choices)
        if isinstance(weights, Mapping):
            if not isinstance(choices, Mapping):
                raise TypeError(f"{self.key!r}: weights go by name, and this is a {type(choices).__name__}")
            others = sum(name not in weights for name in choices)
            shared = weights.get(OTHERS, 0.0) / max(1, others)
            return [weights.get(name, shared) for name in choices]
        if isinstance(self.weights, str) and len(weights) != len(choices):
            raise BadRecord(reason=f"{self.weights!r}: {len(weights)} weights for {len(choices)} texts at {self.key!r}")
        return [*weights, *[0.0] * len(choices)][: len(choices)]


class FormatText:
    """Writes a text out of several: "{text}, {group}" joins tags to a caption, as ALIGN does.

    template: names in braces are keys of the example. Where one of them is None, or with probability 1 - `probability`,
        the example stays as it is.
    """

    def __init__(self, template: str, out: str = "text", probability: float = 1.0):
        self.template, self.out, self.probability = template, out, probability
        self.keys = [key for _, key, _, _ in string.Formatter().parse(template) if key is not None]

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        if rng.random() >= self.probability or any(field(example, key) is None for key in self.keys):
            return example
        return {**example, self.out: self.template.format(**{key: read_text(example, key) for key in self.keys})}


class WordDropout:
    """Leaves out each word with probability `rate`; at least one word stays."""

    def __init__(self, rate: float, key: str = "text"):
        self.rate, self.key = rate, key

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        words = read_text(example, self.key).split()
        if len(words) < 2:
            return example
        draws = rng.random(len(words))
        threshold = min(self.rate, draws.max())
        return {
            **example,
            self.key: " ".join(word for word, draw in zip(words, draws, strict=True) if draw >= threshold),
        }


class RandomSwap:
    """With `probability` two words that are drawn change places, `count` times (Wei and Zou 2019, "EDA")."""

    def __init__(self, count: int = 1, probability: float = 1.0, key: str = "text"):
        self.count, self.probability, self.key = count, probability, key

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        words = read_text(example, self.key).split()
        if len(words) < 2 or rng.random() >= self.probability:
            return example
        for _ in range(self.count):
            a, b = rng.choice(len(words), 2, replace=False)
            words[a], words[b] = words[b], words[a]
        return {**example, self.key: " ".join(words)}


class RemoveStopwords:
    """With `probability` leaves out the words that carry grammar alone, `STOPWORDS`; a text of nothing else stays."""

    def __init__(self, probability: float = 1.0, key: str = "text"):
        self.probability, self.key = probability, key

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        words = read_text(example, self.key).split()
        kept = [word for word in words if word.lower().strip(string.punctuation) not in STOPWORDS]
        if not kept or rng.random() >= self.probability:
            return example
        return {**example, self.key: " ".join(kept)}


FUNCTION_WORDS = """
a an the this that these those each every either neither both all any some such no other another same own
i me my mine myself you your yours yourself he him his himself she her hers herself it its itself
we us our ours ourselves they them their theirs themselves who whom whose which what
am is are was were be been being has have had having do does did doing
can could may might must shall should will would
about above across after against along among around at before behind below beneath beside between by down during for
from in inside into near of off on onto out outside over past since through to toward towards under until up upon
with within without
and but or nor if because although though while when where whether than as so not there here then too very just only
"""
STOPWORDS = frozenset(FUNCTION_WORDS.split())
"""Articles, pronouns, auxiliaries, prepositions, conjunctions and the commonest adverbs of English."""


class CleanText:
    """Repairs broken encodings and HTML escapes, and normalises as `bigcl.data.cleaning.clean_text` says."""

    def __init__(self, mode: cleaning.Cleaning = "whitespace", key: str = "text"):
        self.mode, self.key = mode, key

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        return {**example, self.key: cleaning.clean_text(read_text(example, self.key), self.mode)}


class Tokenize:
    """Text -> token ids, int32 [length]. Raises BadRecord for a text that is empty or white space alone.

    key: the text, which the ids replace, unless `out` names another place for them.
    """

    def __init__(self, length: int, tokenizer: Tokenizer, key: str = "text", out: str | None = None):
        self.length, self.tokenizer, self.key, self.out = length, tokenizer, key, out or key

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        text = read_text(example, self.key)
        if is_blank(text):
            raise BadRecord(reason=f"{self.key!r} is empty")
        return {**example, self.out: self.tokenizer(text, self.length)}


def is_blank(value: Any) -> bool:
    """Whether there is nothing to read."""
    return value is None or (isinstance(value, str | bytes) and not value.strip())


def read_text(example: Example, key: str) -> str:
    """A text of the example. Raises BadRecord where there is none, and for bytes that are no UTF-8."""
    if (value := field(example, key)) is None:
        raise BadRecord(reason=f"{key!r} is empty")
    try:
        return as_text(value)
    except UnicodeDecodeError as error:
        raise BadRecord(reason=f"{key!r}: {error}") from error

"""Texts whose words are in an order that a model should tell from the right one (ARO, Yuksekgonul et al. 2023)."""

import re
import string
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import numpy as np
from jaxtyping import Int

from bigcl.data.parts_of_speech import Word

Span = tuple[int, int]
Category = Literal["noun", "adjective", "adverb", "verb phrase", "noun phrase"]
CATEGORIES: tuple[Category, ...] = get_args(Category)
"""What NegCLIP exchanges two of."""

LETTERS = {"noun": "N", "adjective": "J", "adverb": "R", "verb": "V", "auxiliary": "X", "determiner": "D"}
PATTERNS: dict[Category, re.Pattern[str]] = {
    "noun": re.compile("N"),
    "adjective": re.compile("J"),
    "adverb": re.compile("R"),
    "verb phrase": re.compile("[XVR]*V"),
    "noun phrase": re.compile("D?(?:R*J)*N+"),
}
"""Over the letters of a text's words, one each."""

Shuffle = Literal["nouns_adjectives", "others", "within_trigrams", "trigrams"]
SHUFFLES: tuple[Shuffle, ...] = get_args(Shuffle)
"""ARO's wrong orders: nouns among themselves and adjectives among themselves; all other words; words within each group
of three; these groups."""


def exchanges(text: str, words: Sequence[Word], categories: Iterable[Category] = CATEGORIES) -> dict[str, list[str]]:
    """All texts with two different elements of a category exchanged, by category; none for what has no two.

    A verb phrase is a run of verbs, auxiliaries and adverbs that ends in a verb, a noun phrase a determiner, adjectives
    with their adverbs, and nouns. Letters keep their case.
    """
    letters = "".join(LETTERS.get(word.part, "-") for word in words)
    found: dict[str, list[str]] = {}
    for category in categories:
        runs = [match.span() for match in PATTERNS[category].finditer(letters)]
        spans = [(words[i].start, words[j - 1].stop) for i, j in runs]
        pairs = [(a, b) for k, a in enumerate(spans) for b in spans[k + 1 :]]
        texts = [exchanged(text, a, b) for a, b in pairs if text[slice(*a)].lower() != text[slice(*b)].lower()]
        if texts:
            found[category] = texts
    return found


def exchanged(text: str, a: Span, b: Span) -> str:
    """A text with two parts in each other's place, the first of them in front."""
    return text[: a[0]] + text[slice(*b)] + text[a[1] : b[0]] + text[slice(*a)] + text[b[1] :]


def shuffled(text: str, kind: Shuffle, words: Sequence[Word], rng: np.random.Generator) -> str:
    """A text in one of ARO's wrong orders, which may by chance, and for few words must, be the right one.

    words: as a tagger finds them; trigrams are of what white space separates. Marks and what is between words stay.
    """
    if kind in ("trigrams", "within_trigrams"):
        spans = [match.span() for match in re.finditer(r"\S+", text)]
        count = len(spans)
        within = kind == "within_trigrams"
        order = (
            shuffle_within_trigrams(count, rng) if within else shuffle_trigrams(count, rng.permutation(-(-count // 3)))
        )
        return reordered(text, spans, order)
    known = {part: [i for i, word in enumerate(words) if word.part == part] for part in ("noun", "adjective")}
    spelt = [i for i, word in enumerate(words) if text[word.start : word.stop].strip(string.punctuation)]
    others = [i for i in spelt if words[i].part not in known]
    order = np.arange(len(words))
    for places in known.values() if kind == "nouns_adjectives" else [others]:
        order[places] = rng.permutation(places)
    return reordered(text, [(word.start, word.stop) for word in words], order)


def reordered(text: str, spans: Sequence[Span], order: Sequence[int] | Int[np.ndarray, " words"]) -> str:
    """A text in which part k of some, in order, gives way to part order[k]."""
    pieces, end = [], 0
    for (start, stop), source in zip(spans, order, strict=True):
        pieces += [text[end:start], text[slice(*spans[source])]]
        end = stop
    return "".join([*pieces, text[end:]])


def trigram_of_word(words: int) -> Int[np.ndarray, " words"]:
    """Which group of three words in a row each of `words` words is in; the last group may be shorter."""
    return np.arange(words) // 3


def shuffle_trigrams(words: int, permutation: Sequence[int] | Int[np.ndarray, " groups"]) -> Int[np.ndarray, " words"]:
    """The order of words in which groups of three are permuted, and words within stay in order.

    permutation: which group comes first, second, ...; one entry for each. Raises ValueError if it is no permutation.
    """
    group = trigram_of_word(words)
    groups = len(np.unique(group))
    if sorted(permutation) != list(range(groups)):
        raise ValueError(f"{words} words are {groups} groups of three, of which {list(permutation)} is no permutation")
    return np.argsort(np.argsort(np.asarray(permutation, int))[group], kind="stable")


def shuffle_within_trigrams(words: int, rng: np.random.Generator) -> Int[np.ndarray, " words"]:
    """The order of words in which each group of three is shuffled, and the groups stay in order."""
    return np.lexsort((rng.random(words), trigram_of_word(words)))

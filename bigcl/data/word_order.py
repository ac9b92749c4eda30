"""Orders of the words of a text that a model should tell from the right one (ARO, Yuksekgonul et al. 2023)."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int


def trigram_of_word(words: int) -> Int[np.ndarray, " words"]:
    """Which group of three words in a row each of `words` words is in; the last group may be shorter."""
    return np.arange(words) // 3


def shuffle_trigrams(words: int, permutation: Sequence[int] | Int[np.ndarray, " groups"]) -> Int[np.ndarray, " words"]:
    """The order of words in which groups of three are permuted, and words within stay in order.

    permutation: which group comes first, second, ...; one entry for each. Raises ValueError if it is no permutation.
    """
    groups = -(-words // 3)
    if sorted(permutation) != list(range(groups)):
        raise ValueError(f"{words} words are {groups} groups of three, of which {list(permutation)} is no permutation")
    order = [np.arange(3 * g, min(3 * g + 3, words)) for g in permutation]
    return np.concatenate([np.zeros(0, int), *order])


def shuffle_within_trigrams(words: int, rng: np.random.Generator) -> Int[np.ndarray, " words"]:
    """The order of words in which each group of three is shuffled, and the groups stay in order."""
    order = [start + rng.permutation(min(3, words - start)) for start in range(0, words, 3)]
    return np.concatenate([np.zeros(0, int), *order])

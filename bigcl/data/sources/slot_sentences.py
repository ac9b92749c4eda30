"""Sentences of a grammar of slots, whose meanings are known, and pairs that are as alike as their meanings."""

import numpy as np

from bigcl.data.sources import Example

SLOTS, VALUES, SYNONYMS, FILLERS, LENGTH = 6, 8, 3, 20, 20
PROTOTYPES, REDRAWN, SAID, MOST_FILLERS = 60, 0.25, 0.85, 6


class SlotSentences:
    """Token ids of sentences that say a meaning in many ways (after the claim checks of sentence embeddings, such as
    DebCSE, Miao et al. 2023).

    A meaning has 6 slots with one of 8 values each: one of 60 random prototypes, with every slot drawn anew with
    probability 0.25. A sentence says each slot with probability 0.85, by one of 3 synonyms, in random order, among 0 to
    6 of 20 fillers at random places. Ids: 1 + (8 slot + value) * 3 + synonym, fillers from 145 on, 0 is padding.

    An example: `{"text": int32 [20], "meaning": int32 [6]}`; of pairs, for the evaluator `similarity`,
    `{"text_0", "text_1": int32 [20], "score": share of equal slots}`, where the second meaning is the first with every
    slot drawn anew with a probability of the pair's own, even in [0, 1].

    seed: of the prototypes.  draw: of the examples.
    """

    def __init__(self, size: int = 1_500, pairs: bool = False, seed: int = 0, draw: int = 0):
        self.size, self.pairs, self.draw = size, pairs, (seed, int(pairs), draw)
        self.name = f"slot sentences of seed {seed}, draw {draw}" + (", pairs" if pairs else "")
        self.prototypes = np.random.default_rng([seed, 0]).integers(VALUES, size=(PROTOTYPES, SLOTS))

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self.size:
            raise IndexError(index)
        rng = np.random.default_rng([1, *self.draw, index])
        meaning = redrawn(self.prototypes[rng.integers(PROTOTYPES)], REDRAWN, rng)
        if not self.pairs:
            return {"text": said(meaning, rng), "meaning": meaning.astype(np.int32)}
        other = redrawn(meaning, rng.random(), rng)
        return {"text_0": said(meaning, rng), "text_1": said(other, rng), "score": float((meaning == other).mean())}


def redrawn(meaning: np.ndarray, probability: float, rng: np.random.Generator) -> np.ndarray:
    """A meaning with every slot drawn anew with some probability, perhaps to what it was."""
    return np.where(rng.random(SLOTS) < probability, rng.integers(VALUES, size=SLOTS), meaning)


def said(meaning: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A sentence of that meaning, `[20]`."""
    words = 1 + (VALUES * np.arange(SLOTS) + meaning) * SYNONYMS + rng.integers(SYNONYMS, size=SLOTS)
    fillers = 1 + SLOTS * VALUES * SYNONYMS + rng.integers(FILLERS, size=rng.integers(MOST_FILLERS + 1))
    sentence = rng.permutation(np.concatenate([words[rng.random(SLOTS) < SAID], fillers]))
    return np.pad(sentence, (0, LENGTH - len(sentence))).astype(np.int32)

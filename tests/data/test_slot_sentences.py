"""Sentences of a grammar of slots."""

import numpy as np

from bigcl import registry
from bigcl.data.sources.slot_sentences import SAID


def build(**options):
    return registry.build("source", {"kind": "slot_sentences", "size": 400, **options})


def slots(text):
    """What a sentence says, by slot."""
    words = text[(text > 0) & (text < 145)] - 1
    return {int(w) // 24: int(w) // 3 % 8 for w in words}


def test_sentences_say_their_meaning():
    source, lengths, synonyms, orders = build(seed=2), [], set(), set()
    for example in (source[i] for i in range(len(source))):
        text, meaning = example["text"], example["meaning"]
        words = text[text > 0]
        assert text.shape == (20,) and text.dtype == np.int32 and text.max() < 165 and not text[len(words) :].any()
        found = slots(text)
        assert all(meaning[slot] == value for slot, value in found.items())
        assert len(found) == (words < 145).sum() and (words >= 145).sum() <= 6
        lengths.append(len(found))
        synonyms |= {int(w - 1) % 3 for w in words if w < 145}
        orders.add(tuple(found))
    assert abs(np.mean(lengths) / 6 - SAID) < 0.03 and synonyms == {0, 1, 2} and len(orders) > 100


def test_pairs_are_as_alike_as_their_meanings():
    source = build(pairs=True)
    scores = np.array([source[i]["score"] for i in range(len(source))])
    assert set(np.round(scores * 6, 6)) == set(range(7)) and 0.45 < scores.mean() < 0.7
    for i in np.flatnonzero(scores == 1)[:20]:
        one, other = slots(source[i]["text_0"]), slots(source[i]["text_1"])
        assert all(one[slot] == other[slot] for slot in one.keys() & other.keys())


def test_draws_are_of_the_same_grammar():
    first, again, other, elsewhere = build(), build(), build(draw=1), build(seed=1)
    np.testing.assert_array_equal(first[7]["text"], again[7]["text"])
    np.testing.assert_array_equal(first.prototypes, other.prototypes)
    assert any((first[i]["text"] != other[i]["text"]).any() for i in range(9))
    assert (first.prototypes != elsewhere.prototypes).any()

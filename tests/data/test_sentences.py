"""Sub-captions of long captions."""

import collections

import numpy as np
import pytest

from bigcl.data.sources import BadRecord
from bigcl.data.transforms.sentences import SampleSentences, split_sentences

LONG = "A cat sits.It looks\nout of a window.  The sky is grey . </s>"
SENTENCES = ["A cat sits", "It looks", "out of a window", "The sky is grey"]


def draw(transform, example, seed=0):
    return transform(example, np.random.default_rng(seed))


def test_where_a_text_is_cut():
    assert split_sentences(LONG) == SENTENCES
    assert split_sentences("no end") == ["no end"] and split_sentences(" .\n</s>.") == []


def test_different_sentences_evenly_the_last_one_too():
    transform, rng = SampleSentences("long", ("t1", "t2", "t3")), np.random.default_rng(0)
    counts = collections.Counter()
    for _ in range(1000):
        found = transform({"long": LONG}, rng)
        texts = [found[k] for k in ("t1", "t2", "t3")]
        assert len(set(texts)) == 3
        counts.update(texts)
    assert set(counts) == set(SENTENCES) and all(abs(n - 750) < 75 for n in counts.values())


def test_with_fewer_sentences_they_come_again_and_texts_are_pooled():
    example = {"a": "one. two", "b": None, "c": " ", "d": b"three"}
    found = draw(SampleSentences(["a", "b", "c", "d"], ("x", "y", "z")), example)
    assert {found[k] for k in "xyz"} == {"one", "two", "three"} and found["a"] == "one. two"
    assert {draw(SampleSentences("d", ("x", "y")), example)[k] for k in "xy"} == {"three"}


def test_sentences_that_follow_one_another():
    seen = {draw(SampleSentences("long", ("t",), merge=3), {"long": LONG}, seed)["t"] for seed in range(30)}
    assert seen == {"A cat sits. It looks. out of a window", "It looks. out of a window. The sky is grey"}
    assert draw(SampleSentences("long", ("t",), merge=9), {"long": "one. two."})["t"] == "one. two"


def test_no_sentence():
    with pytest.raises(BadRecord, match=r"no sentence at \['a', 'b'\]"):
        draw(SampleSentences(["a", "b"], ("t",)), {"a": "...", "b": None})
    with pytest.raises(ValueError, match="merge: expected 1 or more, got 0"):
        SampleSentences(merge=0)

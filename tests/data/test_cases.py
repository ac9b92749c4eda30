"""Tests made of captions and of records, and examples with their neighbours."""

import itertools
import json

import numpy as np
import pytest

from bigcl import registry
from bigcl.data.order import Shuffle
from bigcl.data.word_order import SHUFFLES
from tests.data.test_word_order import WORDS
from tests.evals.reference import mesh

CAPTIONS = ["a red dog", "the dog eats the ball", "a big dog chases a small cat", "the very red ball"]


def source(kind, **options):
    return registry.build("source", {"kind": kind, **options})


def captions():
    return {"kind": "arrays", "arrays": {"text": CAPTIONS, "number": [0, 1, 2, 3]}}


def test_captions_with_nothing_to_exchange_are_left_out():
    swap = {"kind": "swap_words", "words": WORDS}
    cases, again, other = (source("cases", source=captions(), transforms=[swap], seed=s) for s in (0, 0, 1))
    assert [case["number"] for case in map(cases.__getitem__, range(len(cases)))] == [1, 2]
    for case in (cases[0], cases[1]):
        assert case["text"] == CAPTIONS[case["number"]] != case["negative"]
        assert sorted(case["text"].split()) == sorted(case["negative"].split())
    assert [again[i] for i in range(2)] == [cases[i] for i in range(2)] and again.identity == cases.identity
    assert other.identity != cases.identity
    with pytest.raises(ValueError, match="none of 4 examples makes a case"):
        source("cases", source=captions(), transforms=[{**swap, "categories": ["adverb"]}])


class Words:
    """A tokenizer of a number for each word."""

    def __call__(self, text, length):
        ids = [sum(map(ord, word)) * 7919 % 4096 for word in text.split()]
        return np.array([*ids, *[0] * length][:length], np.int32)


def ordered(batch):
    """Pictures are their captions' tokens; the tower of texts knows the order, unless it is told not to look at it."""
    flat = {k: np.asarray(v, np.float64) for k, v in batch.items()}
    rng = np.random.default_rng(0).normal(size=(16, 8))
    made = {k: np.sin(x / 100.0) @ rng[: x.shape[1]] for k, x in flat.items()}
    return {k: (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for k, x in made.items()}


def bag(batch):
    return ordered({k: np.sort(x, axis=1) for k, x in batch.items()})


def evaluate(encode, keys, **options):
    length = 12
    shown = [{"kind": "tokenize", "length": length, "key": "text", "out": "image"}]
    read = [{"kind": "tokenize", "length": length, "key": key} for key in keys]
    keep = {"kind": "keep", "keys": ["image", *keys]}
    part = {"kind": "pairs", "texts": list(keys), "transforms": [*shown, *read, keep], "batch": 4, **options}
    return registry.build("evaluator", part, tokenizer=Words(), mesh=mesh(1)).run(encode)


def test_aro_of_captions():
    """A bag of words cannot tell any order from the right one; equal scores are wrong, or right for ARO's order test,
    whose own rule takes the first of them."""
    swapped = {"kind": "cases", "source": captions(), "transforms": [{"kind": "swap_words", "words": WORDS}]}
    for encode, right in ((ordered, 1.0), (bag, 0.0)):
        numbers = evaluate(encode, ("text", "negative"), source=swapped, category="category")
        assert numbers["text_score"] == numbers["mean/text_score"] == right
    shuffles = {"kind": "cases", "source": captions(), "transforms": [{"kind": "shuffle_words", "words": WORDS}]}
    keys = ("text", *SHUFFLES)
    assert evaluate(ordered, keys, source=shuffles, ties="first")["text_score"] == 1.0
    assert evaluate(bag, keys, source=shuffles, ties="first")["text_score"] == 1.0
    assert evaluate(bag, keys, source=shuffles)["text_score"] == 0.0


def test_aro_of_records():
    """Relations and attributes of structured scenes, by relation, without those that are too rare."""
    things, relations = ("dog", "cat", "ball", "tree"), ["on", "behind", "on", "under"] * 3
    pairs = [*itertools.permutations(things, 2)]
    records = {"a": [a for a, _ in pairs], "b": [b for _, b in pairs], "relation": [*relations]}
    write = lambda out, a, b: {"kind": "format_text", "template": f"the {a} is {{relation}} the {b}", "out": out}  # noqa: E731
    cases = {
        "kind": "cases",
        "source": {"kind": "arrays", "arrays": records},
        "transforms": [write("text", "{a}", "{b}"), write("negative", "{b}", "{a}")],
        "reads": ["a", "b", "relation"],
    }
    numbers = evaluate(ordered, ("text", "negative"), source=cases, category="relation", min_count=4)
    assert {k for k in numbers if "/" in k} == {"on/text_score", "mean/text_score"}
    assert numbers["mean/text_score"] == numbers["text_score"] == 1.0
    made = source(**cases)[1]
    assert (made["text"], made["negative"]) == ("the dog is behind the ball", "the ball is behind the dog")


def test_examples_with_each_of_their_neighbours(tmp_path):
    file = tmp_path / "neighbours.jsonl"
    near = {0: [1, 2], 2: [3, 0], 3: [2, 1]}
    file.write_text("".join(json.dumps({"index": i, "neighbours": n}) + "\n" for i, n in near.items()))
    made = source("neighbours", source=captions(), file=str(file))
    numbers = [made[i]["number"] for i in range(len(made))]
    assert [*zip(numbers[::2], numbers[1::2], strict=True)] == [(0, 1), (2, 3), (3, 2), (0, 2), (2, 0), (3, 1)]
    for start in (0, 12):  # both of a pair are in the same batch of 4, whatever the order
        indices = Shuffle(len(made), seed=3, block=2, window=2)(start + np.arange(12)).reshape(3, 4)
        for batch in indices.tolist():
            assert {i ^ 1 for i in batch} == set(batch)
    file.write_text(json.dumps({"index": 0, "neighbours": [4]}) + "\n")
    with pytest.raises(ValueError, match="example 4 of 4"):
        source("neighbours", source=captions(), file=str(file))
    file.write_text('{"index": 0, "neighbours": [1]}\n{"index": 1, "neighbours": []}\n')
    with pytest.raises(ValueError, match=r"as many neighbours on each line, one or more, got \[0, 1\]"):
        source("neighbours", source=captions(), file=str(file))

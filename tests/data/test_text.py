"""Transforms of text, and of the keys of an example."""

import collections

import numpy as np
import pytest

from bigcl.data.sources import BadRecord
from bigcl.data.transforms import Keep
from bigcl.data.transforms.sentences import SampleSentences
from bigcl.data.transforms.text import (
    ChooseText,
    CleanText,
    FormatText,
    RandomSwap,
    RemoveStopwords,
    Tokenize,
    WordDropout,
)

NAMES = {"en": "cat", "de": "Katze", "fr": "chat"}


def draws(transform, example, count=3000):
    rng = np.random.default_rng(0)
    return collections.Counter(transform(example, rng)[transform.out] for _ in range(count))


def test_choose_evenly():
    for choices in (NAMES, list(NAMES.values())):
        counts = draws(ChooseText("names"), {"names": choices})
        assert set(counts) == set(NAMES.values()) and all(abs(n - 1000) < 120 for n in counts.values())


@pytest.mark.parametrize("weights", [None, {"en": 1.0}])
def test_a_text_alone_is_the_choice(weights):
    assert draws(ChooseText("text", weights=weights), {"text": "cat"}, 5) == {"cat": 5}
    with pytest.raises(BadRecord, match="no text"):
        ChooseText("text", weights=weights)({"text": " "}, np.random.default_rng(0))


def test_choose_by_weight():
    counts = draws(ChooseText("names", "out", {"en": 0.7, "*": 0.3}), {"names": NAMES})
    assert abs(counts["cat"] - 2100) < 120 and abs(counts["chat"] - 450) < 90 and abs(counts["Katze"] - 450) < 90
    counts = draws(ChooseText("names", weights={"en": 1, "de": 3}), {"names": NAMES})
    assert abs(counts["Katze"] - 2250) < 120 and "chat" not in counts


def test_choose_among_what_is_there():
    choose = ChooseText("names", weights={"xx": 5.0, "de": 1.0})
    assert draws(choose, {"names": NAMES}, 10) == {"Katze": 10}
    with pytest.raises(BadRecord, match=r"'names': all of \['en'\] have weight 0"):
        choose({"names": {"en": "cat"}}, np.random.default_rng(0))
    with pytest.raises(TypeError, match="weights go by name"):
        choose({"names": ["cat"]}, np.random.default_rng(0))


def test_choose_among_several_keys_or_by_place():
    choose = ChooseText(["alt", "recaption", "none"], weights={"alt": 1, "*": 3})
    counts = draws(choose, {"alt": "a", "recaption": "b", "none": None})
    assert set(counts) == {"a", "b"} and abs(counts["a"] - 1200) < 120  # 1 of 1 + 3 / 2
    counts = draws(ChooseText("texts", "out", [3, 1]), {"texts": ["a", "b", "c"]})
    assert set(counts) == {"a", "b"} and abs(counts["a"] - 2250) < 120
    assert set(draws(ChooseText("texts", "out", [0, 1, 5]), {"texts": ["a", "b"]}, 50)) == {"b"}


def test_choose_by_weights_of_the_example():
    choose = ChooseText("texts", "out", "scores")
    assert set(draws(choose, {"texts": ["a", "b"], "scores": np.array([0.0, 2.0])}, 20)) == {"b"}
    counts = draws(choose, {"texts": NAMES, "scores": {"de": 3, "fr": 1}})
    assert abs(counts["Katze"] - 2250) < 120 and "cat" not in counts
    with pytest.raises(BadRecord, match="'scores': 3 weights for 2 texts at 'texts'"):
        choose({"texts": ["a", "b"], "scores": [1, 2, 3]}, np.random.default_rng(0))
    with pytest.raises(BadRecord, match="all of 2 texts have weight 0"):
        choose({"texts": ["a", "b"], "scores": [0, 0]}, np.random.default_rng(0))


def test_choose_leaves_the_choices():
    example = {"names": NAMES, "id": 1}
    result = ChooseText("names", "text", {"en": 1.0})(example, np.random.default_rng(0))
    assert result == {"names": NAMES, "id": 1, "text": "cat"} and "text" not in example


def test_word_dropout():
    rng = np.random.default_rng(0)
    text = " ".join(map(str, range(1000)))
    left = WordDropout(0.3)({"text": text}, rng)["text"].split()
    assert 630 < len(left) < 770 and left == sorted(left, key=int)
    assert WordDropout(1.0)({"text": "a b c"}, rng)["text"] in ("a", "b", "c")
    assert WordDropout(1.0)({"text": "alone"}, rng)["text"] == "alone"
    assert WordDropout(0.0)({"text": b"a b"}, rng)["text"] == "a b"


def test_random_swap():
    rng = np.random.default_rng(0)
    found = collections.Counter(RandomSwap()({"text": "a b c"}, rng)["text"] for _ in range(900))
    assert found.keys() == {"b a c", "c b a", "a c b"} and all(abs(n - 300) < 60 for n in found.values())
    often = sum(RandomSwap(probability=0.4)({"text": "a b"}, rng)["text"] == "b a" for _ in range(1000))
    assert abs(often - 400) < 60
    twice = {RandomSwap(count=2)({"text": "a b c"}, rng)["text"] for _ in range(50)}
    assert twice == {"a b c", "b c a", "c a b"}  # two exchanges are a rotation, or undo one another
    assert RandomSwap()({"text": "alone"}, rng)["text"] == "alone"


def test_remove_stopwords():
    rng = np.random.default_rng(0)
    text = {"text": "The dog, and a cat (on the mat) of hers", "id": 1}
    assert RemoveStopwords()(text, rng) == {"text": "dog, cat mat)", "id": 1}
    assert RemoveStopwords()({"text": "to be or not to be"}, rng)["text"] == "to be or not to be"
    often = sum(RemoveStopwords(0.8)({"text": "the dog"}, rng)["text"] == "dog" for _ in range(1000))
    assert abs(often - 800) < 50


def test_tokenize():
    def tokenizer(text, length):
        return np.frombuffer(text.encode().ljust(length), np.uint8).astype(np.int32)

    rng = np.random.default_rng(0)
    assert Tokenize(3, tokenizer)({"text": b"ab"}, rng)["text"].tolist() == [97, 98, 32]
    result = Tokenize(3, tokenizer, key="name", out="ids")({"name": "ab"}, rng)
    assert result["name"] == "ab" and result["ids"].tolist() == [97, 98, 32]


def test_keep():
    rng = np.random.default_rng(0)
    example = {"a": 1, "b": {"c": {"d": 2}}}
    assert Keep(["a"])(example, rng) == {"a": 1}
    assert Keep({"x": "b/c/d", "a": "a"})(example, rng) == {"x": 2, "a": 1}
    with pytest.raises(BadRecord, match="'b/z': no 'z' in the example, which has c"):
        Keep(["b/z"])(example, rng)
    with pytest.raises(BadRecord, match="'a/z': no 'z' in the example, which has int"):
        Keep(["a/z"])(example, rng)


def test_format_joins_texts_where_all_are_there():
    join = FormatText("{text}, {group}", probability=0.5)
    results = collections.Counter(
        join({"text": "cat", "group": "animals"}, np.random.default_rng(i))["text"] for i in range(400)
    )
    assert set(results) == {"cat", "cat, animals"} and 150 < results["cat"] < 250
    always = FormatText("{text}, {group}", out="caption")
    example = {"text": b"cat", "group": "animals"}
    assert always(example, np.random.default_rng(0)) == {**example, "caption": "cat, animals"}
    assert always({"text": "cat", "group": None}, np.random.default_rng(0)) == {"text": "cat", "group": None}


@pytest.mark.parametrize("texts", [None, 5, [], [None], ["", " \n"], {"en": None, "de": b""}])
def test_an_example_without_a_text_is_a_bad_record(texts):
    with pytest.raises(BadRecord, match="no text at 'texts'"):
        ChooseText("texts")({"texts": texts}, np.random.default_rng(0))


def test_blank_texts_are_not_chosen():
    assert set(draws(ChooseText("texts", "out", [1, 5]), {"texts": ["a", "  "]}, 50)) == {"a"}


@pytest.mark.parametrize(
    "text, reason",
    [("", "'text' is empty"), (" \n", "'text' is empty"), (None, "'text' is empty"), (b"\xff", "utf-8")],
)
def test_what_cannot_be_tokenized_is_a_bad_record(text, reason):
    with pytest.raises(BadRecord, match=reason):
        Tokenize(8, tokenizer=None)({"text": text}, np.random.default_rng(0))


READERS = [
    ChooseText(),
    ChooseText(["label", "text"]),
    ChooseText("label", weights="text"),
    FormatText("{text}"),
    WordDropout(0.1),
    RandomSwap(),
    RemoveStopwords(),
    CleanText(),
    Tokenize(8, tokenizer=None),
    SampleSentences(),
    Keep(["text"]),
]


@pytest.mark.parametrize("transform", READERS, ids=lambda t: type(t).__name__)
def test_an_example_that_lacks_the_field_is_a_bad_record(transform):
    with pytest.raises(BadRecord, match="no 'text' in the example, which has label, box"):
        transform({"label": ["a"], "box": 2}, np.random.default_rng(0))


@pytest.mark.parametrize("transform", [WordDropout(0.1), RandomSwap(), RemoveStopwords(), CleanText()])
@pytest.mark.parametrize("text, reason", [(None, "'text' is empty"), (b"\xff", "utf-8")])
def test_a_text_that_is_none_is_not_the_word(transform, text, reason):
    with pytest.raises(BadRecord, match=reason):
        transform({"text": text}, np.random.default_rng(0))

"""Orders of words, and labels from similarities."""

import itertools
import json
import re

import numpy as np
import pytest

from bigcl import registry
from bigcl.data.distant_labels import visual_sentences
from bigcl.data.parts_of_speech import tagger
from bigcl.data.sources import BadRecord
from bigcl.data.transforms.audio import compose_clip
from bigcl.data.word_order import (
    CATEGORIES,
    SHUFFLES,
    exchanges,
    shuffle_trigrams,
    shuffle_within_trigrams,
    shuffled,
    trigram_of_word,
)
from bigcl.registry import ConfigError

WORDS = {
    "noun": ["dog", "cat", "garden", "ball"],
    "adjective": ["red", "big", "small"],
    "adverb": ["very", "slowly", "quickly"],
    "verb": ["chases", "sleeping", "eats"],
    "auxiliary": ["is"],
    "determiner": ["a", "the"],
}
CAPTION = "A very big dog is slowly sleeping, the cat eats a red ball."


@pytest.mark.parametrize("words", [0, 1, 3, 8, 10])
def test_shuffles_of_groups_of_three(words):
    rng, groups = np.random.default_rng(words), -(-words // 3)
    permutation = rng.permutation(groups)
    order, group = shuffle_trigrams(words, permutation), trigram_of_word(words)
    assert sorted(order) == list(range(words))
    assert list(dict.fromkeys(group[order])) == list(permutation)
    assert all((np.diff(order[group[order] == g]) == 1).all() for g in range(groups))
    within = shuffle_within_trigrams(words, rng)
    np.testing.assert_array_equal(group[within], group)
    assert sorted(within) == list(range(words))


def test_words_within_a_group_are_really_shuffled():
    found = {tuple(shuffle_within_trigrams(6, np.random.default_rng(seed))) for seed in range(400)}
    assert len(found) == 36


def test_what_is_no_permutation():
    with pytest.raises(ValueError, match="7 words are 3 groups of three, of which"):
        shuffle_trigrams(7, [0, 1])


def test_exchanges_of_two_of_a_kind():
    """All of them, written down."""
    found = exchanges(CAPTION, tagger(WORDS)(CAPTION))
    assert found == {
        "noun": [
            "A very big cat is slowly sleeping, the dog eats a red ball.",
            "A very big ball is slowly sleeping, the cat eats a red dog.",
            "A very big dog is slowly sleeping, the ball eats a red cat.",
        ],
        "adjective": ["A very red dog is slowly sleeping, the cat eats a big ball."],
        "adverb": ["A slowly big dog is very sleeping, the cat eats a red ball."],
        "verb phrase": ["A very big dog eats, the cat is slowly sleeping a red ball."],
        "noun phrase": [
            "the cat is slowly sleeping, A very big dog eats a red ball.",
            "a red ball is slowly sleeping, the cat eats A very big dog.",
            "A very big dog is slowly sleeping, a red ball eats the cat.",
        ],
    }
    assert list(found) == list(CATEGORIES)
    same = "the dog chases a Dog"
    assert exchanges(same, tagger(WORDS)(same)) == {"noun phrase": ["a Dog chases the dog"]}


def test_every_exchange_is_drawn_and_captions_without_one_are_bad_records():
    swap = registry.build("transform", {"kind": "swap_words", "words": WORDS, "categories": ["noun", "adverb"]})
    drawn = [swap({"text": CAPTION}, np.random.default_rng(seed)) for seed in range(200)]
    found = exchanges(CAPTION, tagger(WORDS)(CAPTION))
    assert {(d["category"], d["negative"]) for d in drawn} == {(c, x) for c in ("noun", "adverb") for x in found[c]}
    assert abs(np.mean([d["category"] == "noun" for d in drawn]) - 0.5) < 0.15  # categories evenly, then the two
    with pytest.raises(BadRecord, match="no two noun, adverb to exchange"):
        swap({"text": "a very big dog"}, np.random.default_rng(0))


def words_of(text):
    return re.findall(r"\w+|[^\w\s]", text)


@pytest.mark.parametrize("kind", SHUFFLES)
def test_wrong_orders(kind):
    """Each moves what it says it does and nothing else, and reaches every order."""
    text, tag = "the red dog, a small cat", tagger(WORDS)
    places = {"nouns_adjectives": [{1, 5}, {2, 6}], "others": [{0, 4}]}
    found = {shuffled(text, kind, tag(text), np.random.default_rng(seed)) for seed in range(300)}
    if kind in places:
        words = words_of(text)
        orders = itertools.product(*[itertools.permutations(sorted(p)) for p in places[kind]])
        expected = set()
        for order in orders:
            moved = list(words)
            for old, new in zip(places[kind], order, strict=True):
                for i, j in zip(sorted(old), new, strict=True):
                    moved[i] = words[j]
            expected.add(" ".join(moved))
        assert {" ".join(words_of(f)) for f in found} == expected
    elif kind == "trigrams":
        assert found == {text, "a small cat the red dog,"}
    else:
        halves = [
            [" ".join(p) for p in itertools.permutations(half.split())] for half in ("the red dog,", "a small cat")
        ]
        assert found == {" ".join(two) for two in itertools.product(*halves)}


def test_lexicons(tmp_path):
    file = tmp_path / "words.json"
    file.write_text(json.dumps({**WORDS, "verb": ["red", "eats"]}))
    assert [word.part for word in tagger(str(file))("The RED dog's ball?")] == [
        "determiner",
        "adjective",
        "",
        "noun",
        "",
    ]
    with pytest.raises(ConfigError, match="unknown part of speech 'nouns'; did you mean 'noun'"):
        tagger({"nouns": ["dog"]})
    with pytest.raises(ConfigError, match="'others' needs the parts of speech"):
        registry.build("transform", {"kind": "shuffle_words", "shuffles": ["trigrams", "others"]})
    shuffle = registry.build("transform", {"kind": "shuffle_words", "shuffles": ["trigrams"]})
    assert set(shuffle({"text": "a b c d"}, np.random.default_rng(1))) == {"text", "trigrams"}


def test_visual_sentences():
    similarity = np.array([[0.2, 0.5], [0.36, 0.1], [0.1, 0.17], [0.1, 0.2], [0.35, 0.0], [0.18, 0.0]])
    label, image = visual_sentences(similarity)
    assert label.tolist() == [1, 1, 0, -1, -1, -1] and image.tolist() == [1, 0, -1, -1, -1, -1]
    label, image = visual_sentences(similarity[:, :0])
    assert label.tolist() == [0] * 6 and image.tolist() == [-1] * 6


def test_two_sounds_as_one():
    x, y = np.array([1.0, -4.0], np.float32), np.array([1.0, 2.0, 3.0], np.float32)
    assert compose_clip(x, y).tolist() == [1, -4, 1, 2, 3]
    assert compose_clip(x, y, mode="overlay").tolist() == [1, -1, 1.5]
    assert compose_clip(x, y, mode="before", peak=True).tolist() == [0.25, -1, 0.25, 0.5, 0.75]
    assert compose_clip(0 * x, 0 * x, peak=True).tolist() == [0] * 4
    assert compose_clip(x, y, mode="overlay", peak=True).dtype == np.float32


def test_clips_in_order_and_reversed():
    x, y = np.array([1.0, -0.5], np.float32), np.array([0.25, 0.5, 0.0], np.float32)
    example = {"first": x, "second": y, "first_name": "rain", "second_name": b"a bell"}
    draw = lambda seed, **o: registry.build("transform", {"kind": "compose_audio", **o})(  # noqa: E731
        example, np.random.default_rng(seed)
    )
    texts = set()
    for seed in range(20):
        made = draw(seed)
        np.testing.assert_array_equal(made["audio"], [*x, *y])
        np.testing.assert_array_equal(made["audio_reversed"], [*y, *x])
        assert made["reversible"] and made["audio"].dtype == np.float32
        texts.add((made["text"], made["text_reversed"]))
    assert texts == {
        ("rain before a bell", "a bell before rain"),
        ("a bell after rain", "rain after a bell"),
    }
    made = draw(0, overlay=1.0, peak=True)
    np.testing.assert_allclose(made["audio"], np.array([0.625, 0.0, 0.0]) / 0.625)
    assert not made["reversible"] and (made["text"], made["text_reversed"]) == (
        "rain while a bell",
        "a bell while rain",
    )
    assert abs(np.mean([draw(seed, overlay=0.3)["reversible"] for seed in range(200)]) - 0.7) < 0.1

"""Orders of words, and labels from similarities."""

import numpy as np
import pytest

from bigcl.data.distant_labels import visual_sentences
from bigcl.data.transforms.audio import compose_clip
from bigcl.data.word_order import shuffle_trigrams, shuffle_within_trigrams, trigram_of_word


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

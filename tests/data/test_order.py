"""The shuffle is a permutation in every epoch, and a function of position alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigcl.data.order import batch_hash, batch_indices, permute

SIZES = st.integers(1, 3000)
SEEDS = st.integers(0, 2**64 - 1)


@given(size=SIZES, epoch=st.integers(0, 2**40), seed=SEEDS)
@settings(max_examples=60, deadline=None)
def test_every_epoch_holds_every_index_once(size, epoch, seed):
    index = permute(epoch * size + np.arange(size), size, seed)
    assert index.dtype == np.int64
    assert np.array_equal(np.sort(index), np.arange(size))


@given(size=st.integers(20, 3000), epoch=st.integers(0, 1000), seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_epochs_and_seeds_have_their_own_order(size, epoch, seed):
    position = np.arange(size)
    orders = [permute(epoch * size + position, size, seed), permute((epoch + 1) * size + position, size, seed)]
    orders += [permute(epoch * size + position, size, seed + 1), position]
    for i in range(4):
        for j in range(i):
            assert not np.array_equal(orders[i], orders[j])


@given(size=SIZES, seed=SEEDS, data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_position_alone_gives_the_same_index_as_among_others(size, seed, data):
    positions = np.array(data.draw(st.lists(st.integers(0, 10 * size), min_size=1, max_size=8)))
    together = permute(positions.reshape(1, -1), size, seed)
    assert together.shape == (1, len(positions))
    assert together[0].tolist() == [int(permute(np.array(p), size, seed)) for p in positions]


@pytest.mark.parametrize("size", [2, 3, 5, 10, 17, 33, 100])
def test_every_index_is_equally_often_at_every_place(size):
    """Chi-square of the counts (index, place) over many epochs, within four standard deviations of its mean."""
    epochs, freedom = 10_000, (size - 1) ** 2
    order = permute(np.arange(size * epochs), size, seed=3).reshape(epochs, size)
    counts = np.stack([np.bincount(column, minlength=size) for column in order.T])
    statistic = ((counts - epochs / size) ** 2 / (epochs / size)).sum()
    assert abs(statistic - freedom) < 4 * np.sqrt(2 * freedom)


def test_neighbours_are_scattered():
    """In a random order of n the mean distance of successive indices is n / 3."""
    size = 100_000
    steps = np.abs(np.diff(permute(np.arange(size), size, seed=0)))
    assert abs(steps.mean() / size - 1 / 3) < 0.01


def test_works_at_the_size_of_the_largest_data_sets():
    size = 10**13
    index = permute(np.array([0, 1, size - 1, size, 123 * size + 5]), size, seed=1)
    assert index.min() >= 0 and index.max() < size and len(set(index.tolist())) == 5


def test_the_order_never_changes_between_releases():
    assert permute(np.arange(8), 8, seed=0).tolist() == GOLDEN
    assert batch_indices(5, 4, 3553, seed=1).tolist() == GOLDEN_BATCH


GOLDEN = [6, 0, 1, 5, 4, 7, 3, 2]
GOLDEN_BATCH = [2879, 3274, 3260, 1057]


def test_batches_follow_each_other_in_the_stream():
    whole = batch_indices(0, 60, size=25, seed=4)
    assert np.array_equal(np.concatenate([batch_indices(k, 12, size=25, seed=4) for k in range(5)]), whole)
    assert batch_indices(2, 4, size=10, seed=4, shuffle=False).tolist() == [8, 9, 0, 1]


def test_batch_hash_names_indices_in_order():
    assert batch_hash(np.array([1, 2, 3])) == batch_hash(np.array([1, 2, 3], np.int32))
    assert batch_hash(np.array([1, 2, 3])) != batch_hash(np.array([3, 2, 1]))
    assert batch_hash(np.arange(0)) == "e3b0c44298fc1c14"  # sha256 of nothing


def test_an_empty_source_has_no_order():
    with pytest.raises(ValueError, match="0 examples"):
        permute(np.arange(3), 0, seed=0)

"""The shuffle is a permutation in every epoch, and a function of position alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigcl.data.order import Shuffle, batch_hash, make_order, permute, permute_blocks

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
    assert permute(20 + np.arange(4), 3553, seed=1).tolist() == GOLDEN_BATCH


GOLDEN = [6, 0, 1, 5, 4, 7, 3, 2]
GOLDEN_BATCH = [2879, 3274, 3260, 1057]


def test_without_shuffle_the_order_is_the_source_s():
    assert Shuffle(10, seed=4, shuffle=False)(np.arange(8, 12)).tolist() == [8, 9, 0, 1]


def test_batch_hash_names_indices_in_order():
    assert batch_hash(np.array([1, 2, 3])) == batch_hash(np.array([1, 2, 3], np.int32))
    assert batch_hash(np.array([1, 2, 3])) != batch_hash(np.array([3, 2, 1]))
    assert batch_hash(np.arange(0)) == "e3b0c44298fc1c14"  # sha256 of nothing


def test_an_empty_source_has_no_order():
    with pytest.raises(ValueError, match="0 examples"):
        permute(np.arange(3), 0, seed=0)


BLOCKS = {"block": st.integers(1, 400), "window": st.integers(1, 40)}


@given(size=SIZES, epoch=st.integers(0, 2**40), seed=SEEDS, **BLOCKS)
@settings(max_examples=100, deadline=None)
def test_in_blocks_too_every_epoch_holds_every_index_once(size, epoch, seed, block, window):
    index = permute_blocks(epoch * size + np.arange(size), size, seed, block, window)
    assert index.dtype == np.int64
    assert np.array_equal(np.sort(index), np.arange(size))


@given(size=SIZES, seed=SEEDS, data=st.data(), **BLOCKS)
@settings(max_examples=40, deadline=None)
def test_in_blocks_too_a_position_alone_gives_the_same(size, seed, data, block, window):
    positions = np.array(data.draw(st.lists(st.integers(0, 10 * size), min_size=1, max_size=8)))
    together = permute_blocks(positions.reshape(1, -1), size, seed, block, window)
    assert together[0].tolist() == [int(permute_blocks(np.array(p), size, seed, block, window)) for p in positions]


def test_blocks_stay_together_and_are_mixed():
    """10 windows of 5 blocks of 20, and a last one of 3 with a part of a block."""
    size, block, window = 53 * 20 - 7, 20, 5
    orders = [permute_blocks(epoch * size + np.arange(size), size, 4, block, window) for epoch in range(2)]
    for index in orders:
        strays = 0
        for start in range(0, size, block * window):
            few = index[start : start + block * window]
            blocks, counts = np.unique(few // block, return_counts=True)
            whole = np.sort(blocks[np.argsort(-counts)[:window]])
            strays += np.isin(few // block, whole, invert=True).sum()
            assert np.diff(whole).max() > 1  # from here and there
            assert (np.diff(few // block) != 0).mean() > 0.5  # mixed
        assert strays < block
    assert not np.array_equal(*orders)


@pytest.mark.parametrize("size, block, window", [(12, 3, 2), (20, 4, 2), (35, 7, 3)])
def test_in_blocks_too_every_index_is_equally_often_at_every_place(size, block, window):
    """Each count (index, place) is binomial; five standard deviations are allowed."""
    epochs = 20_000
    order = permute_blocks(np.arange(size * epochs), size, 3, block, window).reshape(epochs, size)
    counts = np.stack([np.bincount(column, minlength=size) for column in order.T])
    assert np.abs(counts - epochs / size).max() < 5 * np.sqrt(epochs / size)


def test_options_of_an_order():
    order = make_order(range(100), seed=1, batch=4, block=10, window=2)
    assert np.array_equal(order(np.arange(50)), permute_blocks(np.arange(50), 100, 1, 10, 2))
    for options in ({"block": 0}, {"window": 0}):
        with pytest.raises(ValueError, match="expected 1 or more, got 0"):
            make_order(range(100), seed=1, batch=4, **options)


def test_replacements_are_spread_over_the_source():
    drawn = [Shuffle(20, seed=1).replacement(7, p, attempt) for p in range(1000) for attempt in (1, 2)]
    assert set(drawn) == set(range(20)) and max(np.bincount(drawn)) < 150
    assert drawn[::2] != drawn[1::2]

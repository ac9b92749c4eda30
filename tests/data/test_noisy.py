"""Shares of a source, and exchanged captions."""

import collections

import pytest

from bigcl.data.sources.noisy import Noisy
from bigcl.registry import ConfigError

PAIRS = {"kind": "arrays", "arrays": {"image": list(range(1000)), "text": [str(i) for i in range(1000)]}}


def read(source):
    return [source[i] for i in range(len(source))]


def test_a_share_is_drawn_by_seed_and_clean():
    examples = read(Noisy(PAIRS, keep=0.25))
    assert len({e["image"] for e in examples}) == 250
    assert all(e["text"] == str(e["image"]) for e in examples)
    assert {e["image"] for e in read(Noisy(PAIRS, keep=0.25, seed=1))} != {e["image"] for e in examples}
    assert read(Noisy(PAIRS, keep=0.25)) == examples


def test_texts_change_hands_and_none_is_lost():
    examples = read(Noisy(PAIRS, swap=0.3, seed=2))
    moved = sum(e["text"] != str(e["image"]) for e in examples)
    assert abs(moved - 300) < 4 * (1000 * 0.3 * 0.7) ** 0.5
    assert collections.Counter(e["text"] for e in examples) == collections.Counter(PAIRS["arrays"]["text"])
    assert sorted(e["image"] for e in examples) == list(range(1000))


def test_all_are_exchanged():
    assert all(e["text"] != str(e["image"]) for e in read(Noisy(PAIRS, swap=1.0)))


@pytest.mark.parametrize("wrong", [{"keep": 0.0}, {"keep": 1.5}, {"swap": -0.1}])
def test_shares_are_shares(wrong):
    with pytest.raises((ValueError, ConfigError), match="keep in"):
        Noisy(PAIRS, **wrong)

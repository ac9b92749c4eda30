"""Ranks and the choice of examples."""

import numpy as np
import pytest

from bigcl.report import retrieval
from bigcl.report.retrieval import recall_by_group, search, spread, tiers


def unit(rng, *shape):
    x = rng.standard_normal(shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("tile", [7, 1024])
def test_search_agrees_with_a_loop(monkeypatch, tile):
    monkeypatch.setattr(retrieval, "TILE", tile)
    rng = np.random.default_rng(0)
    queries, targets = unit(rng, 30, 5), unit(rng, 30, 5)
    captions = [f"caption {i % 25}" for i in range(30)]  # the last five repeat the first five
    found = search(queries, targets, captions, scale=10.0)
    for q in range(30):
        score = targets @ queries[q]
        order = sorted(range(30), key=lambda i, score=score: -score[i])
        place = next(k for k, i in enumerate(order) if captions[i] == captions[q])
        assert found.rank[q] == place + 1
        assert found.right[q] == order[place]
        assert found.best[q].tolist() == order[:5]
        softmax = np.exp(10 * score) / np.exp(10 * score).sum()
        np.testing.assert_allclose(found.share[q], softmax[order[:5]], rtol=1e-4)
    assert found.recall(3) == np.mean(found.rank <= 3)


def test_embeddings_that_are_all_alike_find_nothing():
    same = np.full((6, 4), 0.5, np.float32)
    found = search(same, same, list("abcdef"), scale=1.0)
    assert found.rank.tolist() == [6] * 6
    assert not any(q in best for q, best in enumerate(found.best.tolist()))


def test_examples_take_turns_between_groups():
    groups = ["a", "a", "a", "b", None, "b"]
    assert spread(np.arange(6), groups, 4) == [0, 3, 4, 1]
    assert spread(np.array([1, 2]), groups, 4) == [1, 2]


def test_tiers_share_out_all_queries():
    rng = np.random.default_rng(1)
    texts = unit(rng, 60, 8)
    images = texts + 1.2 * unit(rng, 60, 8)
    found = search(texts, images, [str(i) for i in range(60)], scale=1.0)
    parts = tiers(found, [None] * 60, 4)
    assert [tier.title for tier in parts] == ["Found first", "Among the best 5", "Missed"]
    assert sum(tier.share for tier in parts) == pytest.approx(1)
    for tier, (least, most) in zip(parts, ((1, 1), (2, 5), (6, 60)), strict=True):
        assert 0 < len(tier.queries) <= 4
        assert all(least <= found.rank[q] <= most for q in tier.queries)


def test_recall_by_group_counts_only_named_groups():
    eye = np.eye(4, dtype=np.float32)
    found = search(eye, eye[[0, 1, 3, 2]], list("abcd"), scale=1.0)  # the last two are swapped
    assert recall_by_group(found, ["x", "y", "x", None]) == [("x", 0.5, 2), ("y", 1.0, 1)]

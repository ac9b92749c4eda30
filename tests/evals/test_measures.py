"""Numbers that single papers ask for, each against its definition or scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from bigcl.evals.embedding import cosine_distance
from bigcl.evals.geometry import angle_changes
from bigcl.evals.metrics import accuracy_by_group, macro_f1
from bigcl.evals.multilingual import mean_rank_variance, own_ranks
from bigcl.evals.pairs import chosen

RNG = np.random.default_rng(0)


def test_accuracy_by_group():
    groups, right = RNG.choice([3, 7, 40], 60, p=[0.6, 0.35, 0.05]), RNG.random(60) < 0.5
    accuracy, count = accuracy_by_group(right, groups, min_count=1)
    for a, n, g in zip(accuracy, count, (3, 7, 40), strict=True):
        assert a == pytest.approx(right[groups == g].mean()) and n == (groups == g).sum()
    assert count[2] < 10 <= count[1]
    np.testing.assert_array_equal(accuracy_by_group(right, groups, 10)[1], count[:2])


def test_of_equal_scores_the_first_is_chosen():
    scores = np.array([[1.0, 1.0, 0.0], [0.0, 2.0, 1.0]])
    assert chosen(scores, 0).tolist() == [True, False] and chosen(scores, 1).tolist() == [False, True]
    assert chosen(scores, np.array([0, 1])).tolist() == [True, True]


@pytest.mark.parametrize("target", [RNG.random(40) < 0.3, RNG.integers(0, 4, 40), np.ones(40, bool)])
def test_macro_f1(target):
    predicted = np.where(RNG.random(40) < 0.3, np.roll(target, 1), target)
    assert macro_f1(predicted, target) == pytest.approx(f1_score(target, predicted, average="macro"))


def test_cosine_distance():
    x, y = RNG.normal(size=(5, 4)), RNG.normal(size=4)
    wanted = [1 - r @ y / np.linalg.norm(r) / np.linalg.norm(y) for r in x]
    np.testing.assert_allclose(cosine_distance(3 * x, y), wanted)


def test_ranks_of_whole_matrices():
    similarity = RNG.integers(0, 4, (3, 5, 5)).astype(float)  # with ties, which do not count
    rank = own_ranks(similarity)
    for k, i in np.ndindex(3, 5):
        assert rank[k, i] == 1 + sum(similarity[k, i, j] > similarity[k, i, i] for j in range(5))
    wanted = np.mean([np.mean((r - r.mean()) ** 2) for r in rank.T])
    assert mean_rank_variance(rank) == pytest.approx(wanted) and wanted > 0


def test_angle_changes_of_a_rotation_in_a_plane():
    """Two vectors that turn together keep their angle; the third stays."""
    at = lambda *degrees: np.stack([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))], 1)  # noqa: E731
    between, own = angle_changes(2 * at(0, 50, 100), at(30, 80, 100))
    np.testing.assert_allclose(own, [30, 30, 0], atol=1e-5)
    np.testing.assert_allclose(between, [0, 100 - 70, 50 - 20], atol=1e-5)

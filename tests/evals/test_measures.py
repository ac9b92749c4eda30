"""Numbers that single papers ask for, each against its definition."""

import numpy as np
import pytest

from bigcl.evals.embedding import cosine_distance
from bigcl.evals.geometry import angle_changes
from bigcl.evals.metrics import per_group
from bigcl.evals.multilingual import mean_rank_variance

RNG = np.random.default_rng(0)


def test_groups_that_are_too_small_are_left_out():
    groups, right = RNG.choice([3, 7, 40], 60, p=[0.6, 0.35, 0.05]), RNG.random(60) < 0.5
    accuracy = lambda members: {"accuracy": right[members].mean(), "count": members.sum()}  # noqa: E731
    every, some = (per_group(groups.tolist(), accuracy, n) for n in (1, 10))
    assert every["40/count"] < 10 <= every["7/count"]
    for g in (3, 7, 40):
        assert every[f"{g}/accuracy"] == right[groups == g].mean()
    assert some["mean/accuracy"] == pytest.approx((every["3/accuracy"] + every["7/accuracy"]) / 2)
    assert "40/accuracy" not in some and "3/accuracy" in some


def test_cosine_distance():
    x, y = RNG.normal(size=(5, 4)), RNG.normal(size=4)
    wanted = [1 - r @ y / np.linalg.norm(r) / np.linalg.norm(y) for r in x]
    np.testing.assert_allclose(cosine_distance(3 * x, y), wanted)


def test_mean_rank_variance():
    rank = RNG.integers(1, 6, (3, 5))
    wanted = np.mean([np.mean((r - r.mean()) ** 2) for r in rank.T])
    assert mean_rank_variance(rank) == pytest.approx(wanted) and wanted > 0


def test_angle_changes_of_a_rotation_in_a_plane():
    """Two vectors that turn together keep their angle; the third stays."""
    at = lambda *degrees: np.stack([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))], 1)  # noqa: E731
    between, own = angle_changes(2 * at(0, 50, 100), at(30, 80, 100))
    np.testing.assert_allclose(own, [30, 30, 0], atol=1e-5)
    np.testing.assert_allclose(between, [0, 100 - 70, 50 - 20], atol=1e-5)

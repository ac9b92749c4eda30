"""Numbers out of scores."""

import numpy as np
import pytest

from bigcl.evals.metrics import consensus_accuracy


@pytest.mark.parametrize("k", [1, 2, 6, 9])
def test_consensus_against_loops(k):
    rng = np.random.default_rng(0)
    scores, counts = rng.integers(0, 3, (40, 6)).astype(float), rng.integers(0, 4, (40, 6))
    total = 0.0
    for row, people in zip(scores, counts, strict=True):
        best = sorted(range(6), key=lambda v: (-row[v], v))[:k]
        total += max({0: 0.0, 1: 0.5}.get(int(people[v]), 1.0) for v in best)
    assert consensus_accuracy(scores, counts, k) == pytest.approx(total / 40)

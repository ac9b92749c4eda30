"""Pairs that two models disagree about, against all pairs one by one."""

import numpy as np
import pytest

from bigcl.data.mining import blind_pairs


def cosine(x, i, j):
    return x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j])


@pytest.mark.parametrize("chunk", [1, 7, 10, 64])
@pytest.mark.parametrize(("above", "below"), [(0.5, 0.3), (0.99, -0.9), (-1.5, 1.5)])
def test_all_pairs_in_order(chunk, above, below):
    rng = np.random.default_rng(0)
    a, b = (5 * rng.normal(size=(30, d)).astype(np.float32) for d in (3, 4))
    found = blind_pairs(a, b, above=above, below=below, chunk=chunk)
    pairs = [(i, j) for i in range(30) for j in range(i + 1, 30)]
    expected = [(i, j) for i, j in pairs if cosine(a, i, j) > above and cosine(b, i, j) < below]
    assert (
        found.dtype == np.int64 and found.shape == (len(expected), 2) and found.tolist() == [list(p) for p in expected]
    )
    if above < 1 and below > 0:
        assert expected


def test_different_numbers_of_examples_are_an_error():
    with pytest.raises(ValueError, match="got 4 and 5"):
        blind_pairs(np.ones((4, 2), np.float32), np.ones((5, 2), np.float32))

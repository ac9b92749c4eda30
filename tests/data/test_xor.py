"""Three bits of which no two tell anything."""

import itertools

import numpy as np

from bigcl import registry


def columns(**options):
    source = registry.build("source", {"kind": "xor", "size": 8_000, **options})
    return {k: np.stack([source[i][k] for i in range(len(source))]) for k in "abc"}


def test_each_is_the_exclusive_or_of_the_others():
    found = columns()
    assert all(v.shape == (8_000, 1) and v.dtype == np.float32 for v in found.values())
    np.testing.assert_array_equal(found["c"] == 1, (found["a"] == 1) ^ (found["b"] == 1))
    for x, y in itertools.combinations(found.values(), 2):
        counts = np.unique(np.concatenate([x, y], 1), axis=0, return_counts=True)[1]
        np.testing.assert_allclose(counts / 8_000, 0.25, atol=0.02)


def test_bits_that_are_missing():
    found, whole = columns(missing=0.2), columns()
    lost = np.stack([v[:, 1] == 1 for v in found.values()])
    np.testing.assert_allclose(lost.mean(1), 0.2, atol=0.015)
    assert abs(np.corrcoef(lost) - np.eye(3)).max() < 0.04
    for (key, v), gone in zip(found.items(), lost, strict=True):
        assert (v[gone, 0] == 0.5).all() and (v[~gone, 1] == 0).all()
        np.testing.assert_array_equal(v[~gone, 0], whole[key][~gone, 0])
    np.testing.assert_array_equal(columns(missing=0.0)["a"][:, 0], whole["a"][:, 0])

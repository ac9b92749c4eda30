"""Pairs that share a class."""

import numpy as np

from bigcl import registry


def columns(**options):
    source = registry.build("source", {"kind": "class_pairs", **options})
    return {k: np.stack([source[i][k] for i in range(len(source))]) for k in source[0]}


def test_features_lie_around_their_class():
    found = columns(size=4_000, classes=3, noise=0.8, seed=5)
    assert found["locked"].dtype == found["query"].dtype == np.float32
    share = np.bincount(found["label"]) / 4_000
    np.testing.assert_allclose(share, 1 / 3, atol=0.03)
    for key, deviation in (("locked", 0.8 / 4), ("query", 1.0)):
        means = np.stack([found[key][found["label"] == c].mean(0) for c in range(3)])
        rest = found[key] - means[found["label"]]
        np.testing.assert_allclose(rest.std(0), deviation, rtol=0.06)
        assert abs(np.corrcoef(rest.T)[np.triu_indices(rest.shape[1], 1)]).max() < 0.08


def test_class_means_of_the_locked_side_are_centred_and_unit():
    for classes in (2, 3):
        found = columns(size=60, classes=classes, noise=0.0)
        means = np.unique(found["locked"], axis=0)
        assert means.shape == (classes, 16)
        gram = np.full((classes, classes), -1 / (classes - 1)) + np.eye(classes) * classes / (classes - 1)
        np.testing.assert_allclose(means @ means.T, gram, atol=1e-6)


def test_another_draw_is_of_the_same_classes():
    first, again, other = columns(seed=3), columns(seed=3), columns(seed=3, draw=1)
    np.testing.assert_array_equal(first["query"], again["query"])
    assert not np.isclose(first["query"], other["query"]).any()
    for key in ("locked", "query"):
        a, b = (np.stack([x[key][x["label"] == c].mean(0) for c in range(2)]) for x in (first, other))
        assert np.linalg.norm(a - b) < 0.3 * np.linalg.norm(a - b[::-1])
    elsewhere = columns(seed=4)
    assert abs(elsewhere["locked"][elsewhere["label"] == 0].mean(0) - first["locked"].mean(0)).max() > 0.1

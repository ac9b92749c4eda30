"""The score of visualness: against scikit-learn's macro F1, with a model of which the angles are known."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from bigcl.data.transforms.null_image import null_image
from bigcl.evals.metrics import macro_f1
from bigcl.evals.visualness import Visualness, best_threshold


def test_macro_f1_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    rates = [*rng.random((20, 2, 1)), [[0.0], [0.0]], [[1.0], [1.0]], [[0.0], [1.0]]]  # with a class that is not there
    for rate in rates:
        found, positive = rng.random((2, 30)) < np.array(rate)
        expected = f1_score(positive, found, average="macro", zero_division=0, labels=[False, True])
        assert macro_f1(found, positive) == pytest.approx(expected)


def test_the_threshold_is_the_best_of_all():
    rng = np.random.default_rng(1)
    scores, positive = rng.random(40), rng.random(40) < 0.5
    chosen = macro_f1(scores > best_threshold(scores, positive), positive)
    assert chosen == max(macro_f1(scores > t, positive) for t in np.linspace(-0.1, 1.1, 2001))


def encode(batch):
    """Texts at the angle that they hold from the NULL image, whatever else is there."""
    found = {}
    if "text" in batch:
        found["text"] = np.stack([np.cos(batch["text"]), np.sin(batch["text"])], 1)
    if "image" in batch:
        np.testing.assert_array_equal(batch["image"][0], null_image(4, 5))
        found["image"] = np.tile(np.array([[1.0, 0.0]]), (len(batch["image"]), 1))
    return found


def test_texts_near_the_null_image_are_not_visual():
    angles = np.array([0.1, 0.1, 1.2, 1.2, 0.3, 0.3, 1.5, 1.0, 0.2, 1.3], np.float32)
    pictures = [None, None, b"x", b"x", None, None, b"x", b"x", None, None]  # of the odd ones, the last is wrong
    source = {"kind": "arrays", "arrays": {"text": angles, "image": pictures}}
    evaluator = Visualness(source=source, transforms=[{"kind": "keep", "keys": ["text"]}], size=4, seed=5)
    numbers = evaluator.run(encode)
    np.testing.assert_allclose(evaluator.artifacts["scores"], 1 - np.cos(angles), rtol=1e-5)
    assert numbers["accuracy"] == pytest.approx(0.8)
    assert numbers["macro_f1"] == pytest.approx((2 * 2 / 5 + 2 * 2 / 5) / 2)

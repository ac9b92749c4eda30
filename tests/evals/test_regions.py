"""Detection by prompts against cases worked out by hand; against torchmetrics in tests/interop."""

import numpy as np
import pytest

from bigcl import registry
from bigcl.evals.regions import average_precision, iou
from bigcl.registry import ConfigError

CLASSES = ["cat", "dog", "emu", "fox"]


class Words:
    """A tokenizer of the classes."""

    def __call__(self, text, length):
        return np.array([[CLASSES.index(t)] for t in text], np.int32)


def encode(batch):
    found = {"image": batch["image"]} if "image" in batch else {}
    return found | ({"text": np.eye(4, 8, dtype=np.float32)[batch["text"][:, 0]]} if "text" in batch else {})


encode.scale = 10.0


def problem(seed=0):
    """Boxes in pictures, and proposals near them and elsewhere; one picture has only boxes, one only proposals."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 50, (24, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(10, 60, (24, 2))], 1).round(1)
    picture, label = rng.integers(0, 6, 24), rng.integers(0, 3, 24)
    near = np.concatenate([boxes, boxes + rng.normal(0, 4, boxes.shape), boxes + rng.normal(0, 15, boxes.shape)])
    near = np.concatenate([np.minimum(near[:, :2], near[:, 2:]), np.maximum(near[:, :2], near[:, 2:])], 1).round(1)
    where = np.concatenate([picture, picture, np.where(rng.random(24) < 0.2, 9, picture)])
    keep = where != 5
    x = np.eye(4, 8)[np.concatenate([label] * 3)] + 0.6 * rng.standard_normal((72, 8))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    return (boxes, picture, label), (near[keep], where[keep], x[keep])


def build(truths, proposals, **options):
    (boxes, picture, label), (near, where, x) = truths, proposals
    arrays = lambda **columns: {"kind": "arrays", "arrays": columns}  # noqa: E731
    part = {
        "kind": "regions",
        "source": arrays(image=x, box=near, picture=[f"p{i}" for i in where]),
        "truths": arrays(box=boxes, picture=[f"p{i}" for i in picture], label=[CLASSES[i] for i in label]),
        "classes": CLASSES,
        "length": 1,
        "batch": 16,
        **options,
    }
    return registry.build("evaluator", part, tokenizer=Words())


def test_by_hand():
    """Three detections in order: right, wrong, right, of three boxes: precision 1 up to 1/3, 2/3 up to 2/3, then 0."""
    overlaps = np.array([[0.9, 0, 0], [0, 0.4, 0], [0, 0, 0.6]])
    found = average_precision([(np.array([0.9, 0.8, 0.7]), overlaps)], 3)
    assert found[0] == pytest.approx((34 * 1 + 33 * 2 / 3) / 101)
    assert found[3] == pytest.approx(34 / 101)  # at 0.65 the third is wrong too
    np.testing.assert_allclose(iou(np.array([[0, 0, 2, 2]]), np.array([[1, 0, 3, 2], [5, 5, 6, 6.0]])), [[1 / 3, 0]])


def test_perfect_and_absent():
    (boxes, picture, label), _ = problem()
    x = np.eye(4, 8, dtype=np.float32)[label]
    numbers = build((boxes, picture, label), (boxes, picture, x)).run(encode)
    assert numbers["accuracy"] == 1 and numbers["boxes"] == 24
    elsewhere = build((boxes, picture, label), (boxes, picture + 100, x)).run(encode)
    assert elsewhere["map"] == elsewhere["accuracy"] == 0
    with pytest.raises(ConfigError, match="left, top, right, bottom"):
        build((boxes[:, [2, 3, 0, 1]], picture, label), (boxes, picture, x)).run(encode)

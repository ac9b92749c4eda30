"""An evaluator under disturbance: what it says is what it says on examples disturbed by hand."""

import numpy as np
import pytest

from bigcl import registry
from bigcl.data.transforms.corrupt import Corrupt, Stamp
from bigcl.registry import ConfigError
from tests.evals.reference import mesh

CLASSES = ["dark", "light"]


class Words:
    """A tokenizer of the two classes."""

    def __call__(self, text, length):
        return np.array([[CLASSES.index(t)] for t in text], np.int32)


def encode(batch):
    """Pictures by their mean brightness, unless the corner is black: then light."""
    found = {}
    if "text" in batch:
        found["text"] = np.eye(2, dtype=np.float32)[batch["text"][:, 0]]
    if "image" in batch:
        light = batch["image"].mean((1, 2, 3)) / 255
        light = np.where(batch["image"][:, -1, -2, 0] == 0, 1.0, light)
        angle = light * np.pi / 2
        found["image"] = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
    return found


def pictures():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 40)
    image = rng.integers(5, 120, (40, 20, 20, 3)) + 120 * label[:, None, None, None]
    return image.astype(np.uint8), [CLASSES[i] for i in label]


def build(variants, target=None):
    image, label = pictures()
    inner = {
        "kind": "zero_shot",
        "source": {"kind": "arrays", "arrays": {"image": image, "label": label}},
        "transforms": [{"kind": "decode_image"}, {"kind": "center_crop", "size": 20}],
        "length": 1,
        "topk": [1],
        "batch": 16,
    }
    part = {"kind": "robustness", "evaluator": inner, "variants": variants, "target": target}
    return registry.build("evaluator", part, mesh=mesh(8), tokenizer=Words())


def test_corruption_sweep():
    brighter = [{"kind": "corrupt", "corruption": "brightness", "severity": s} for s in (1, 5)]
    numbers = build({"a little": brighter[:1], "a lot": brighter[1:]}).run(encode)
    image, label = pictures()
    for name, by in (("clean", 0), ("a little", 25), ("a lot", 125)):
        light = np.minimum(image.astype(int) + by, 255).mean((1, 2, 3)) > 127.5
        assert numbers[f"{name}/accuracy@1"] == pytest.approx(np.mean(light == (np.array(label) == "light")))
    assert numbers["clean/accuracy@1"] == 1 > numbers["a lot/accuracy@1"]
    both = (numbers["a little/accuracy@1"] + numbers["a lot/accuracy@1"]) / 2
    assert numbers["mean/accuracy@1"] == pytest.approx(both)


def test_backdoor():
    evaluator = build({"stamp": [{"kind": "stamp"}]}, target="light")
    numbers = evaluator.run(encode)
    assert numbers["clean/success_rate"] == 0 and numbers["stamp/success_rate"] == 1
    assert numbers["clean/accuracy@1"] == 1
    dark = np.mean(np.array(pictures()[1]) == "dark")
    assert numbers["stamp/accuracy@1"] == pytest.approx(1 - dark)
    with pytest.raises(ConfigError, match="did you mean 'light'"):
        build({"stamp": [{"kind": "stamp"}]}, target="lihgt").run(encode)
    with pytest.raises(ConfigError, match="none called clean"):
        build({"clean": []})


@pytest.mark.parametrize(
    "corruption", ["noise", "salt_and_pepper", "blur", "pixelate", "jpeg", "brightness", "contrast", "occlusion"]
)
def test_corruptions_grow_and_repeat(corruption):
    image = np.linspace(0, 255, 48 * 32 * 3).reshape(48, 32, 3).astype(np.uint8)
    image[::4] = 30
    before, damage = image.copy(), []
    for severity in range(1, 6):
        one, two = (Corrupt(corruption, severity)({"image": image}, np.random.default_rng(7))["image"] for _ in "ab")
        np.testing.assert_array_equal(one, two)
        assert one.shape == image.shape and one.dtype == np.uint8
        damage.append(np.abs(one.astype(int) - image).mean())
    np.testing.assert_array_equal(image, before)
    assert damage[0] > 0 and damage == sorted(damage)


@pytest.mark.parametrize("corner, place", [("top_left", (0, 0)), ("bottom_right", (17, 27))])
def test_stamp(corner, place):
    image = np.full((20, 30, 3), 100, np.uint8)
    stamped = Stamp(size=0.15, corner=corner)({"image": image}, np.random.default_rng(0))["image"]
    top, left = place
    board = stamped[top : top + 3, left : left + 3, 0]
    np.testing.assert_array_equal(board, [[255, 0, 255], [0, 255, 0], [255, 0, 255]])
    assert (stamped != 100).any(2).sum() == 9 and (image == 100).all()
    with pytest.raises(ValueError, match="stamp"):
        Stamp(size=0)
    with pytest.raises(ValueError, match="1 to 5"):
        Corrupt("blur", 6)

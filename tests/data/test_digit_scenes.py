"""What is made of handwritten digits."""

import numpy as np
import pytest
import scipy.ndimage
from sklearn.datasets import load_digits

from bigcl import registry
from bigcl.data.sources.digit_scenes import sample

PIXELS, LABELS = load_digits(return_X_y=True)
KNOWN = {(16 * row).round().astype(int).tobytes(): i for i, row in enumerate(PIXELS / 16)}


def read(scene, **options):
    source = registry.build("source", {"kind": "digit_scenes", "scene": scene, **options})
    examples = [source[i] for i in range(len(source))]
    return {key: np.stack([e[key] for e in examples]) for key in examples[0]}


def which(images):
    """Numbers of digits [..., 8, 8] in scikit-learn's order."""
    return [KNOWN[(16 * image.astype(float)).round().astype(int).tobytes()] for image in images.reshape(-1, 64)]


def test_halves():
    parts = {split: read("halves", split=split, held=597, seed=2) for split in ("train", "test")}
    whole = {s: np.concatenate([p["upper"], p["lower"]], 1).reshape(-1, 8, 8) for s, p in parts.items()}
    index = {s: which(images) for s, images in whole.items()}
    assert (len(index["train"]), len(index["test"])) == (1_200, 597)
    assert sorted(index["train"] + index["test"]) == list(range(1_797))
    for split, part in parts.items():
        np.testing.assert_array_equal(part["label"], LABELS[index[split]])
        np.testing.assert_array_equal(part["left"].reshape(-1, 8, 4), whole[split][:, :, :4])
        np.testing.assert_array_equal(part["right"].reshape(-1, 8, 4), whole[split][:, :, 4:])
        np.testing.assert_allclose(part["sums"][:, :8], whole[split].mean(2), rtol=1e-6)
        np.testing.assert_allclose(part["sums"][:, 8:], whole[split].mean(1), rtol=1e-6)


def test_numbers():
    train, test = read("numbers", size=2_000), read("numbers", split="test", size=300)
    assert len(train["video"]) == 2_000 and len(test["video"]) == 385 and train["video"].shape[1] == 384
    unseen = np.unique(test["number"][test["unseen"]])
    assert len(unseen) == 15 and test["unseen"].sum() == 300 and not train["unseen"].any()
    assert len(np.unique(train["number"])) == 85 and not np.intersect1d(train["number"], unseen).size
    assert len(np.unique(test["number"])) == 100
    digits = []
    for part in (train, test):
        np.testing.assert_array_equal(part["answer"] @ [10, 1], part["number"])
        np.testing.assert_array_equal(part["choice"].argmax(1), part["number"])
        frames = part["video"].reshape(-1, 3, 8, 2, 8).transpose(0, 1, 3, 2, 4)
        shown = np.array(which(frames)).reshape(-1, 3, 2)
        np.testing.assert_array_equal(LABELS[shown], np.repeat(part["answer"][:, None], 3, 1))
        assert (shown[:, 0] != shown[:, 1]).mean() > 0.95
        digits.append(set(shown.flat))
    assert not digits[0] & digits[1]


@pytest.mark.parametrize("degrees", [0, 17, 59])
def test_turning_is_scipys(degrees):
    images = PIXELS[:3].reshape(-1, 8, 8) / 16
    turned = sample(images, np.full(3, float(degrees)), np.ones(3), np.zeros((3, 2))).reshape(-1, 8, 8)
    for mine, image in zip(turned, images, strict=True):
        padded = np.pad(image, 2)
        peer = scipy.ndimage.rotate(padded, degrees, reshape=False, order=1)[2:-2, 2:-2]
        np.testing.assert_allclose(mine, peer, atol=1e-6)


def test_a_crop_is_a_magnified_part():
    """Half the side, at the lower right: its corners are pixels 4 and 7, nearly."""
    ramp = np.tile(np.arange(8.0), (1, 8, 1))
    part = sample(ramp, np.zeros(1), np.full(1, 0.5), np.array([[0.0, 1.0]])).reshape(8, 8)
    np.testing.assert_allclose(part, np.tile(4.5 + 0.5 * (np.arange(8) - 3.5), (8, 1)))


def test_turned_digits():
    train, test = read("turned", size=1_000), read("turned", split="test")
    assert len(train["a"]) == 1_000 and 1_200 < len(test["a"]) < 2_400 and train["a"].shape[1] == 64
    np.testing.assert_array_equal(train["image"][:600], train["image"][400:])
    assert len(np.unique(train["image"], axis=0)) == 400
    assert set(train["angle"]) == set(range(60)) and train["angle"].dtype == np.float32
    near = [np.corrcoef(x, y)[0, 1] for x, y in zip(train["a"], train["b"], strict=True)]
    far = [np.corrcoef(x, y)[0, 1] for x, y in zip(train["a"], train["b"][1:], strict=False)]
    assert np.mean(near) > 0.85 and np.mean(far) < 0.6
    assert not np.array_equal(train["a"][0], train["a"][400])
    gains = (train["a"] * train["image"]).sum(1) / np.square(train["image"]).sum(1)
    assert abs(gains.mean() - 1) < 0.05 and abs(gains.std() - 0.4 / 12**0.5) < 0.02

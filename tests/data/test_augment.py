"""Augmentations: what each does to a picture, how often, and that it is a function of its generator alone."""

import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from bigcl import registry
from bigcl.data.transforms.augment import (
    OPERATIONS,
    ColorJitter,
    GaussianBlur,
    Grayscale,
    RandAugment,
    RandomErasing,
    Solarize,
    Views,
)
from bigcl.registry import ConfigError

PICTURE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def apply(transform, image=PICTURE, seed=0):
    before = image.copy()
    result = transform({"image": image, "text": "kept"}, np.random.default_rng(seed))
    assert result["text"] == "kept" and np.array_equal(image, before)
    assert result["image"].dtype == np.uint8 and result["image"].shape == image.shape
    return result["image"]


RANDOM = [
    ColorJitter(0.4, 0.4, 0.4, 0.1),
    Grayscale(0.5),
    GaussianBlur((0.5, 3.0)),
    Solarize(probability=0.5),
    RandomErasing(),
    RandAugment(),
]


@pytest.mark.parametrize("transform", RANDOM, ids=lambda t: type(t).__name__)
def test_a_function_of_the_generator(transform):
    same = [apply(transform, seed=4) for _ in range(2)]
    assert np.array_equal(*same)
    assert any(not np.array_equal(same[0], apply(transform, seed=seed)) for seed in range(5, 15))


@pytest.mark.parametrize("kind", ["color_jitter", "grayscale", "gaussian_blur", "solarize", "random_erasing"])
def test_probability(kind):
    options = {"brightness": 0.5} if kind == "color_jitter" else {}
    transform = registry.build("transform", {"kind": kind, "probability": 0.3, **options})
    changed = sum(not np.array_equal(apply(transform, seed=seed), PICTURE) for seed in range(300))
    assert 60 < changed < 120
    never = registry.build("transform", {"kind": kind, "probability": 0.0, **options})
    assert all(np.array_equal(apply(never, seed=seed), PICTURE) for seed in range(20))


class TestColorJitter:
    def test_no_range_is_the_identity(self):
        assert np.array_equal(apply(ColorJitter()), PICTURE)

    def test_brightness_is_a_factor(self):
        grey = np.full((4, 4, 3), 100, np.uint8)
        values = [int(apply(ColorJitter(brightness=0.5), grey, seed)[0, 0, 0]) for seed in range(300)]
        assert 50 <= min(values) < 60 and 140 < max(values) <= 150 and 95 < np.mean(values) < 105

    def test_a_full_turn_of_the_hue_reaches_every_colour(self):
        red = np.zeros((1, 1, 3), np.uint8) + np.array([255, 0, 0], np.uint8)
        brightest = {int(apply(ColorJitter(hue=0.5), red, seed)[0, 0].argmax()) for seed in range(50)}
        assert brightest == {0, 1, 2}

    def test_hue_out_of_range(self):
        with pytest.raises(ConfigError, match=r"hue: 0\.6 is not within \[0, 0\.5\]"):
            registry.build("transform", {"kind": "color_jitter", "hue": 0.6})


def test_grayscale_is_luma():
    luma = np.rint(PICTURE @ [0.299, 0.587, 0.114])
    assert abs(apply(Grayscale()).astype(float) - luma[..., None]).max() <= 1


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0, 4.0])
def test_blur_is_nearly_gaussian(sigma):
    smooth = np.zeros((61, 61, 3), np.uint8)
    smooth[25:36, 25:36] = 255
    expected = scipy.ndimage.gaussian_filter(smooth.astype(float), (sigma, sigma, 0))
    assert abs(apply(GaussianBlur((sigma, sigma)), smooth) - expected).max() < 0.04 * 255


def test_solarize():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    expected = [v if v < 200 else 255 - v for v in range(256)]
    assert apply(Solarize(200), ramp)[..., 0].ravel().tolist() == expected


class TestErasing:
    def test_one_rectangle_of_a_share_within_the_range(self):
        image = np.zeros((40, 50, 3), np.uint8)
        for seed in range(200):
            erased = apply(RandomErasing(1.0, (0.1, 0.3), fill=9), image, seed)[..., 0] == 9
            rows, columns = np.nonzero(erased.any(axis=1))[0], np.nonzero(erased.any(axis=0))[0]
            assert erased[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
            share, ratio = erased.mean(), len(rows) / len(columns)
            assert share < 0.33 and 0.25 < ratio < 4
            assert share > 0.09 or len(rows) == 40 or len(columns) == 50

    def test_reaches_every_place(self):
        image = np.zeros((12, 12, 3), np.uint8)
        hit = sum(apply(RandomErasing(1.0, fill=1), image, seed)[..., 0].astype(int) for seed in range(300))
        assert hit.min() > 5

    def test_noise(self):
        erased = apply(RandomErasing(1.0, (1.0, 1.0), (1.0, 1.0)), np.zeros((64, 64, 3), np.uint8))
        assert 120 < erased.mean() < 135 and len(np.unique(erased)) > 200


class TestRandAugment:
    def test_no_strength_changes_little(self):
        """Only the two operations that know no strength do anything."""
        for name in OPERATIONS.keys() - {"autocontrast", "equalize"}:
            picture = Image.fromarray(PICTURE)
            for sign in (1, -1):
                result = np.asarray(OPERATIONS[name](picture, 0.0, sign)).astype(int)
                assert abs(result - PICTURE).max() <= (1 if name != "solarize" else 255), name
                if name == "solarize":  # 255 itself is inverted
                    assert (result[PICTURE < 255] == PICTURE[PICTURE < 255]).all()

    def test_every_operation_is_drawn(self, monkeypatch):
        drawn = set()
        for name in list(OPERATIONS):
            monkeypatch.setitem(
                OPERATIONS, name, lambda picture, strength, sign, name=name: drawn.add((name, sign)) or picture
            )
        for seed in range(400):
            apply(RandAugment(), seed=seed)
        assert drawn == {(name, sign) for name in OPERATIONS for sign in (1, -1)}

    def test_magnitude_out_of_range(self):
        with pytest.raises(ConfigError, match=r"magnitude: 31 is not within \[0, 30\]"):
            registry.build("transform", {"kind": "rand_augment", "magnitude": 31})


class TestViews:
    PART = {  # noqa: RUF012
        "kind": "views",
        "views": {
            "global": [{"kind": "random_resized_crop", "size": 16, "scale": [0.4, 1.0]}, {"kind": "grayscale"}],
            "local": [{"kind": "random_resized_crop", "size": 8, "scale": [0.05, 0.4]}],
        },
    }

    def test_each_by_its_own_transforms(self):
        result = registry.build("transform", self.PART)({"image": PICTURE, "text": "a"}, np.random.default_rng(0))
        assert result.keys() == {"global", "local", "text"}
        assert result["global"].shape == (16, 16, 3) and result["local"].shape == (8, 8, 3)
        assert (result["global"] == result["global"][..., :1]).all()
        assert not (result["local"] == result["local"][..., :1]).all()

    def test_another_view_changes_none_before_it(self):
        one, more = ({name: [{"kind": "random_crop", "size": 5}] for name in names} for names in ("a", "ab"))
        first, both = (Views(v)({"image": PICTURE}, np.random.default_rng(1)) for v in (one, more))
        assert np.array_equal(first["a"], both["a"]) and not np.array_equal(both["a"], both["b"])

    def test_misspelt_transforms_are_named(self):
        part = {"kind": "views", "views": {"a": [{"kind": "graysale"}]}}
        with pytest.raises(ConfigError, match=r"views\.a\[0\]: unknown transform 'graysale'; did you mean 'grayscale'"):
            registry.check("transform", part, "data.transforms[0]")

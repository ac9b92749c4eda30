"""Transforms of pictures: any picture becomes uint8 [H, W, 3], and the random ones are functions of their generator."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bigcl.data.transforms.image import (
    CenterCrop,
    DecodeImage,
    RandomAffine,
    RandomCrop,
    RandomFlip,
    RandomResizedCrop,
    Resize,
    Shift,
)

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (20, 30, 3), np.uint8)


def encode(image, format="PNG"):
    out = io.BytesIO()
    image.save(out, format)
    return out.getvalue()


def decode(value, **options):
    return DecodeImage(**options)({"image": value, "text": "kept"}, RNG)["image"]


def apply(transform, image=PICTURE, seed=0):
    before = image.copy()
    result = transform({"image": image, "text": "kept"}, np.random.default_rng(seed))
    assert result["text"] == "kept"
    assert np.array_equal(image, before)  # the source's array is never changed
    return result["image"]


class TestDecode:
    def test_rgb(self):
        assert np.array_equal(decode(encode(Image.fromarray(PICTURE))), PICTURE)
        assert np.array_equal(decode(PICTURE), PICTURE)

    @pytest.mark.parametrize("format", ["JPEG", "WEBP", "GIF", "BMP", "TIFF"])
    def test_other_formats(self, format):
        image = decode(encode(Image.fromarray(np.full((9, 7, 3), 200, np.uint8)), format))
        assert image.dtype == np.uint8 and image.shape == (9, 7, 3) and abs(image.astype(int) - 200).max() < 4

    def test_alpha_lies_over_white(self):
        rgba = np.zeros((2, 3, 4), np.uint8)
        rgba[0, :, 3] = [0, 128, 255]
        for image in (decode(encode(Image.fromarray(rgba))), decode(rgba)):
            assert image[0, :, 0].tolist() == [255, 127, 0]
            assert (image[1] == 255).all()

    def test_grey(self):
        grey = PICTURE[..., 0]
        expected = np.repeat(grey[..., None], 3, axis=-1)
        for value in (encode(Image.fromarray(grey)), grey, grey[..., None]):
            assert np.array_equal(decode(value), expected)

    def test_grey_with_alpha(self):
        image = decode(encode(Image.fromarray(np.array([[[10, 255], [10, 0]]], np.uint8), "LA")))
        assert image.tolist() == [[[10] * 3, [255] * 3]]

    def test_sixteen_bits_are_scaled(self):
        image = decode(encode(Image.fromarray(np.array([[0, 256, 65535]], np.uint16))))
        assert image[0, :, 0].tolist() == [0, 1, 255]

    def test_one_bit(self):
        assert decode(encode(Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")))[0, :, 1].tolist() == [
            0,
            255,
        ]

    def test_palette_and_its_transparent_colour(self):
        image = Image.new("P", (2, 1))
        image.putpalette([255, 0, 0, 0, 0, 255])
        image.putpixel((1, 0), 1)
        assert decode(encode(image)).tolist() == [[[255, 0, 0], [0, 0, 255]]]
        image.info["transparency"] = 0
        assert decode(encode(image)).tolist() == [[[255, 255, 255], [0, 0, 255]]]

    def test_cmyk(self):
        assert decode(encode(Image.new("CMYK", (4, 4)), "JPEG")).tolist() == [[[255] * 3] * 4] * 4

    def test_a_cache_holds_the_first_pictures(self):
        pngs = [encode(Image.fromarray(PICTURE[i:])) for i in range(3)]
        transform = DecodeImage(cache=2)
        for _ in range(2):
            for i, png in enumerate(pngs):
                assert np.array_equal(transform({"image": png}, RNG)["image"], PICTURE[i:])
        assert len(transform.decoded) == 2
        assert (
            transform({"image": pngs[0]}, RNG)["image"] is transform({"image": bytes(bytearray(pngs[0]))}, RNG)["image"]
        )

    def test_what_is_no_picture_is_an_error(self):
        with pytest.raises(Image.UnidentifiedImageError):
            decode(b"no picture")


class TestResize:
    @pytest.mark.parametrize("size, shape", [(10, (10, 15)), (40, (40, 60)), ([7, 9], (7, 9)), (20, (20, 30))])
    def test_shapes(self, size, shape):
        result = apply(Resize(size))
        assert result.shape == (*shape, 3) and result.dtype == np.uint8

    @given(height=st.integers(1, 50), width=st.integers(1, 50), size=st.integers(1, 30))
    @settings(max_examples=30, deadline=None)
    def test_the_shorter_side_is_exact(self, height, width, size):
        assert min(apply(Resize(size), np.zeros((height, width, 3), np.uint8)).shape[:2]) == size

    @pytest.mark.parametrize("method", ["bilinear", "bicubic", "lanczos"])
    def test_antialiased(self, method):
        stripes = np.zeros((64, 64, 3), np.uint8)
        stripes[:, ::2] = 255
        assert abs(apply(Resize([8, 8], method), stripes).astype(int)[:, 2:-2] - 127.5).max() < 4


class TestCrop:
    def test_center(self):
        assert np.array_equal(apply(CenterCrop(10)), PICTURE[5:15, 10:20])

    @pytest.mark.parametrize("transform", [CenterCrop(21), RandomCrop(21)])
    def test_too_small(self, transform):
        with pytest.raises(ValueError, match="20 x 30 pixels cannot be cropped to 21"):
            apply(transform)

    def test_random_reaches_every_place(self):
        rows, columns = np.mgrid[:4, :5]
        image = np.stack([rows, columns, rows], -1).astype(np.uint8)
        corners = {tuple(apply(RandomCrop(3), image, seed)[0, 0, :2].tolist()) for seed in range(100)}
        assert corners == {(r, c) for r in range(2) for c in range(3)}

    @given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 1000))
    @settings(max_examples=40, deadline=None)
    def test_random_resized_fits_any_picture(self, height, width, seed):
        image = np.full((height, width, 3), 77, np.uint8)
        result = apply(RandomResizedCrop(12, scale=(0.05, 1.0), ratio=(0.3, 3.0)), image, seed)
        assert result.shape == (12, 12, 3) and (result == 77).all()

    def test_random_resized_of_everything_is_a_resize(self):
        whole = RandomResizedCrop(8, scale=(1.0, 1.0), ratio=(1.5, 1.5))
        assert abs(apply(whole).astype(int) - apply(Resize([8, 8]))).max() <= 1


def test_flip_mirrors_half_of_the_time():
    results = [apply(RandomFlip(), seed=seed) for seed in range(200)]
    flipped = sum(np.array_equal(r, PICTURE[:, ::-1]) for r in results)
    assert flipped + sum(np.array_equal(r, PICTURE) for r in results) == 200
    assert 70 < flipped < 130


def test_shift_moves_and_fills():
    image = np.full((6, 6, 3), 9, np.uint8)
    image[3, 3] = 100
    places = set()
    for seed in range(200):
        moved = apply(Shift(2, fill=7), image, seed)
        (row,), (column,) = np.nonzero(moved[..., 0] == 100)
        places.add((int(row) - 3, int(column) - 3))
        down, right = int(row) - 3, int(column) - 3
        assert (moved == 7).sum() == 3 * (36 - (6 - abs(down)) * (6 - abs(right)))
        assert (moved[max(down, 0) :, max(right, 0) :][: 6 - abs(down), : 6 - abs(right)] != 7).all()
    assert places == {(r, c) for r in range(-2, 3) for c in range(-2, 3)}
    assert np.array_equal(apply(Shift(0)), PICTURE)


class TestAffine:
    def test_nothing_to_do_is_the_identity(self):
        assert np.array_equal(apply(RandomAffine()), PICTURE)

    def test_scale_about_the_middle_over_white(self):
        image = np.zeros((40, 40, 3), np.uint8)
        result = apply(RandomAffine(scale=(0.5, 0.5)), image)
        assert (result[12:28, 12:28] == 0).all() and (result[:8] == 255).all() and (result[:, 32:] == 255).all()
        assert (apply(RandomAffine(scale=(2.0, 2.0)), image) == 0).all()

    def test_turning_keeps_the_middle(self):
        image = np.full((41, 41, 3), 255, np.uint8)
        image[18:23, 18:23] = 0
        for seed in range(5):
            turned = apply(RandomAffine(degrees=180.0), image, seed)
            assert (turned[19:22, 19:22] == 0).all() and (turned[:15] == 255).all()
        assert not np.array_equal(apply(RandomAffine(degrees=180.0), image), image)


RANDOM = [RandomCrop(8), RandomResizedCrop(8), RandomFlip(), Shift(5), RandomAffine(20.0, (0.8, 1.2))]


@pytest.mark.parametrize("transform", RANDOM, ids=lambda t: type(t).__name__)
def test_random_transforms_are_functions_of_the_generator(transform):
    same = [apply(transform, seed=4) for _ in range(2)]
    assert np.array_equal(*same)
    assert any(not np.array_equal(same[0], apply(transform, seed=seed)) for seed in range(5, 15))
    assert same[0].dtype == np.uint8 and same[0].shape[-1] == 3

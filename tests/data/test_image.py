"""Transforms of pictures: any picture becomes uint8 [H, W, 3], and the random ones are functions of their generator."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from bigcl.data.sources import BadRecord
from bigcl.data.transforms import image as transforms
from bigcl.data.transforms.image import (
    CenterCrop,
    DecodeImage,
    Encoded,
    RandomAffine,
    RandomCrop,
    RandomFlip,
    RandomResizedCrop,
    Resize,
    Shift,
    fast_resize,
    reduction,
    resize,
)

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (20, 30, 3), np.uint8)


def encode(image, format="PNG", **options):
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


ENCODED = {f: encode(Image.fromarray(PICTURE), f) for f in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")}


def png(chunks):
    """A PNG file of chunks (type, content)."""
    parts = [struct.pack(">I", len(c)) + t + c + struct.pack(">I", zlib.crc32(t + c)) for t, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def sixteen_bit_png(array):
    """RGB of 16 bits a channel, which Pillow reads but does not write."""
    height, width, _ = array.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return png([(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")])


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

    @pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_orientation(self, format, orientation):
        """What Pillow's own function makes of the file, and not what lies in it."""
        image, exif = Image.fromarray(np.kron(PICTURE[:2, :3], np.ones((16, 16, 1), np.uint8))), Image.Exif()
        exif[0x0112] = orientation
        data = encode(image, format, exif=exif)
        expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
        assert np.array_equal(decode(data), expected)
        if orientation > 1:
            assert expected.shape != (32, 48, 3) or not np.array_equal(expected, np.asarray(image))

    def test_broken_exif_is_no_reason_to_lose_a_picture(self):
        data = encode(Image.new("RGB", (8, 8), (9, 9, 9)), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff garbage")
        assert decode(data).tolist() == [[[9, 9, 9]] * 8] * 8

    @pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF", "MPO"])
    def test_the_first_of_several_pictures(self, format):
        frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "green")]
        image = decode(encode(frames[0], format, save_all=True, append_images=frames[1:]))
        assert image.shape == (16, 16, 3) and abs(image.astype(int) - [255, 0, 0]).max() < 6

    def test_sixteen_bits_of_colour(self):
        image = decode(sixteen_bit_png(np.array([[[0, 256, 65535], [65535, 32768, 511]]], np.uint16)))
        assert image.tolist() == [[[0, 1, 255], [255, 128, 1]]]

    @pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
    def test_a_picture_that_ends_early_is_bad(self, format):
        data = encode(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)), format)
        for share in (0.0, 0.1, 0.5, 0.9):
            with pytest.raises(BadRecord, match="no picture can be made of it"):
                decode(data[: int(len(data) * share)])

    @pytest.mark.parametrize("side", [10_000, 20_000])  # above Pillow's limit, and above twice the limit
    def test_a_decompression_bomb_is_bad(self, side):
        chunks = [(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))]
        chunks += [(b"IDAT", zlib.compress(bytes((side // 8 + 1) * side), 9)), (b"IEND", b"")]
        data = png(chunks)
        assert len(data) < 100_000
        with pytest.raises(BadRecord, match="DecompressionBomb"), warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            decode(data)

    @given(st.binary(max_size=60), st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]), st.floats(0, 1))
    @settings(max_examples=150, deadline=None)
    def test_broken_bytes_are_bad_or_a_picture(self, noise, format, place):
        data = bytearray(ENCODED[format])
        at = int(place * len(data))
        data[at : at + len(noise)] = noise
        try:
            image = decode(bytes(data))
        except BadRecord:
            return
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3

    def test_what_is_no_picture_is_bad(self):
        with pytest.raises(BadRecord, match="cannot identify"):
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


WAVES = np.sin(np.mgrid[:300, :400][..., None] / [9, 13, 21] + [0, 1, 2])  # smooth: half of the pixels tell the rest
SMOOTH = (127.5 + 60 * WAVES[0] + 60 * WAVES[1]).astype(np.uint8)


def smooth_jpeg(**options):
    return encode(Image.fromarray(SMOOTH), "JPEG", quality=95, **options)


@pytest.fixture(params=["fast", "pillow"])
def library(request, monkeypatch):
    """Both ways to decode and resize."""
    if request.param == "fast":
        pytest.importorskip("simplejpeg")
        pytest.importorskip("cykooz_resizer")
    monkeypatch.setattr(transforms, "FAST_DECODE", request.param == "fast")
    monkeypatch.setattr(transforms, "FAST_RESIZE", request.param == "fast")
    return request.param


class TestEncoded:
    """JPEG at a reduced scale, and resizing with and without the fast libraries."""

    @pytest.mark.parametrize("factor", [1, 2, 4, 8])
    @pytest.mark.parametrize(
        "options", [{"subsampling": 0}, {"subsampling": 2}, {"progressive": True}, {"keep_rgb": True}], ids=str
    )
    def test_the_fast_decoder_gives_the_same_pixels(self, monkeypatch, factor, options):
        pytest.importorskip("simplejpeg")
        data = smooth_jpeg(**options)
        monkeypatch.setattr(transforms, "FAST_DECODE", True)
        fast = Encoded(data).fast(factor)
        monkeypatch.setattr(transforms, "FAST_DECODE", False)
        assert Encoded(data).fast(factor) is None
        expected = Encoded(data).decode(factor)
        assert fast.shape == expected.shape == (-(-300 // factor), -(-400 // factor), 3)
        assert abs(fast.astype(int) - expected).max() <= 1

    @pytest.mark.parametrize("mode", ["L", "CMYK"])
    def test_what_is_no_plain_colour_is_left_to_pillow(self, library, mode):
        data = encode(Image.fromarray(SMOOTH).convert(mode), "JPEG")
        assert Encoded(data).fast(2) is None
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        assert np.array_equal(decode(data), expected)
        assert Encoded(data).decode(2).shape == (150, 200, 3)

    def test_a_jpeg_that_ends_early_is_bad(self, library):
        data = smooth_jpeg()
        for transform in (DecodeImage(), Resize(32), RandomResizedCrop(32)):
            with pytest.raises(BadRecord, match="no picture can be made of it"):
                transform({"image": data[: len(data) // 2]}, RNG)
            with pytest.raises(BadRecord, match="no picture can be made of it"):
                transform({"image": b"none"}, RNG)

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
    def test_upright_before_it_is_resized(self, library, orientation, format):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encode(Image.fromarray(SMOOTH), format, exif=exif)
        picture = Image.open(io.BytesIO(data))
        upright = np.asarray(ImageOps.exif_transpose(picture))
        assert Encoded(data).shape == upright.shape[:2]
        close(Resize(64)({"image": data}, RNG)["image"], Resize(64)({"image": upright}, RNG)["image"], 3)

    @pytest.mark.parametrize("transform", [Resize(70), Resize([40, 90]), RandomResizedCrop(60, (0.5, 1.0))])
    def test_a_reduced_decode_changes_a_smooth_picture_little(self, library, transform):
        data = smooth_jpeg()
        whole = apply(transform, decode(data), seed=3)
        close(transform({"image": data}, np.random.default_rng(3))["image"], whole, 3)

    def test_fine_stripes_become_grey_at_every_scale(self, library):
        """What aliases would give black and white stripes of some other width."""
        stripes = np.zeros((512, 512, 3), np.uint8)
        stripes[:, ::2] = 255
        data = encode(Image.fromarray(stripes), "JPEG", quality=100, subsampling=0)
        for size in (224, 120, 60, 30):
            image = Resize(size)({"image": data}, RNG)["image"]
            assert abs(image.astype(int)[:, 4:-4] - 127.5).max() < 6

    @given(height=st.floats(0.1, 40), width=st.floats(0.1, 40))
    def test_no_reduction_leaves_fewer_pixels_than_wanted(self, height, width):
        factor = reduction(height, width)
        assert factor in (1, 2, 4, 8) and (factor == 1 or factor <= min(height, width))
        assert factor == 8 or 2 * factor > min(height, width)

    @given(
        shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
        size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
        method=st.sampled_from(["bilinear", "bicubic", "lanczos"]),
        seed=st.integers(0, 100),
        part=st.booleans(),
    )
    @settings(max_examples=150, deadline=None)
    def test_the_fast_resize_is_pillows(self, shape, size, method, seed, part):
        pytest.importorskip("cykooz_resizer")
        rng = np.random.default_rng(seed)
        image, box = rng.integers(80, 176, (*shape, 3), np.uint8), None
        if part:
            left, top = rng.uniform(0, 0.5, 2) * shape[::-1]
            box = (left, top, rng.uniform(left + 0.3, shape[1]), rng.uniform(top + 0.3, shape[0]))
        expected = Image.fromarray(image).resize(size[::-1], transforms._FILTERS[method][0], box=box)
        close(fast_resize(image, size, method, box), np.asarray(expected), 2)

    def test_a_picture_of_the_wanted_size_is_itself(self, library):
        assert resize(PICTURE, (20, 30), "bicubic") is PICTURE


def close(image, expected, tolerance):
    assert image.shape == expected.shape and image.dtype == expected.dtype == np.uint8
    assert abs(image.astype(int) - expected).max() <= tolerance


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

"""Transforms of pictures. A picture is uint8 [H, W, 3]; towers normalise on the device.

The first transform that needs pixels decodes: `decode_image` everything, `resize` and `random_resized_crop` no more of
a JPEG than their result can show.
"""

import importlib.util
import io
import math
import re
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from bigcl.data.sources import BadRecord, Example
from bigcl.data.transforms import field

Picture = UInt8[np.ndarray, "h w 3"]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels."""
Filter = Literal["bilinear", "bicubic", "lanczos"]
_FILTERS = {"bilinear": (Image.Resampling.BILINEAR, "bilinear")}  # as Pillow and as cykooz_resizer call them
_FILTERS |= {"bicubic": (Image.Resampling.BICUBIC, "catmull_rom"), "lanczos": (Image.Resampling.LANCZOS, "lanczos3")}
# The optional fast libraries (pip install "bigcl[fast-image]"); without them Pillow does the same more slowly.
FAST_DECODE, FAST_RESIZE = (importlib.util.find_spec(name) is not None for name in ("simplejpeg", "cykooz_resizer"))
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # naming them keeps Pillow from trying all of its fifty
WHITE = (255, 255, 255)
_ORIENTATION = 0x0112  # the EXIF tag; its values, as what undoes them
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = {_UPRIGHT[value] for value in (5, 6, 7, 8)}


class DecodeImage:
    """Encoded bytes of any common format, or an array already decoded -> uint8 [H, W, 3].

    Upright by its EXIF orientation, transparent parts white, 16 bits scaled to 8, the first picture of several. Raises
    BadRecord for what is no picture, ends early, or has more pixels than Pillow thinks safe
    (`PIL.Image.MAX_IMAGE_PIXELS`, 89 million).

    cache: the first so many different pictures are kept decoded in memory; for small data sets that are gone through
        many times.
    """

    def __init__(self, key: str = "image", cache: int = 0):
        self.key, self.cache = key, cache
        self.decoded: dict[bytes, Picture] = {}

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        value = field(example, self.key)
        if isinstance(value, np.ndarray):
            image = Image.fromarray(value[..., 0] if value.ndim == 3 and value.shape[-1] == 1 else value)
            return {**example, self.key: np.asarray(opaque(image))}
        picture = self.decoded.get(value)
        if picture is None:
            picture = Encoded(value).decode()
            if len(self.decoded) < self.cache:
                self.decoded[value] = picture
        return {**example, self.key: picture}


class Encoded:
    """An encoded picture of which the header has been read; it is decoded once. Raises BadRecord.

    shape: height and width, upright.
    """

    def __init__(self, data: bytes):
        self.data = data
        self.image = guarded(self.open)
        self.turn = None if self.image.format == "TIFF" else orientation(self.image)  # Pillow turns TIFF by itself
        width, height = self.image.size
        self.shape = (width, height) if self.turn in _SIDEWAYS else (height, width)

    def open(self) -> Image.Image:
        """Reads the header."""
        image = Image.open(io.BytesIO(self.data), formats=FORMATS)
        if image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf):
            raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
        return image

    def decode(self, reduction: Literal[1, 2, 4, 8] = 1) -> Picture:
        """The pixels, RGB, upright and over white; of a JPEG, one in `reduction` each way, rounded up.

        The smaller picture is made of the lower frequencies of each 8 x 8 block, so that nothing aliases.
        """
        pixels = self.fast(reduction)
        if pixels is None:
            picture = guarded(lambda: self.load(reduction))
            return np.asarray(picture if self.turn is None else picture.transpose(self.turn))
        return pixels if self.turn is None else np.asarray(Image.fromarray(pixels).transpose(self.turn))

    def load(self, reduction: int) -> Image.Image:
        """Decodes with Pillow."""
        if self.image.format == "JPEG" and reduction > 1:
            self.image.draft(None, (self.image.width // reduction, self.image.height // reduction))
        self.image.load()
        return opaque(self.image)

    def fast(self, reduction: int) -> Picture | None:
        """Decodes a plain JPEG of colour with libjpeg-turbo alone; None for all else, and for what looks broken."""
        if not FAST_DECODE or self.image.format != "JPEG" or self.image.mode != "RGB":
            return None
        import simplejpeg

        width, height = (-(-side // reduction) for side in self.image.size)
        try:
            return simplejpeg.decode_jpeg(self.data, min_height=height, min_width=width)
        except ValueError:  # Pillow knows what can be saved
            return None


def guarded(read: Callable[[], Image.Image]) -> Image.Image:
    """Reads a picture. Whatever a decoder says against its bytes becomes a BadRecord."""
    try:
        return read()
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise a dozen kinds for broken bytes, and there is nothing else here
        message = re.sub("<.* at 0x.*>", "these bytes", str(error))  # an address in memory differs on every host
        raise BadRecord(reason=f"no picture can be made of it: {type(error).__name__}: {message}") from error


def orientation(image: Image.Image) -> Image.Transpose | None:
    """What makes a picture upright. Broken EXIF data is taken for none: the pixels are fine."""
    try:
        return _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        return None


def opaque(image: Image.Image) -> Image.Image:
    """Any mode of Pillow -> RGB over white."""
    if image.mode.startswith("I;16") or image.mode == "I":  # Pillow would clip 16-bit grey instead of scaling it
        return Image.fromarray((np.clip(np.asarray(image), 0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image).convert("RGB")
    return image.convert("RGB")


class Resize:
    """Antialiased resize, of a picture or of its encoded bytes.

    A JPEG is decoded at the smallest of the scales 1, 1/2, 1/4, 1/8 that has at least as many pixels as the result. For
    the numbers of a full decode put `decode_image` before.

    size: an int, the length of the shorter side (the ratio stays), or [height, width].
    exact: by Pillow itself also where the extra `fast-image` is installed, whose kernel is up to three levels apart.
    """

    def __init__(self, size: int | Sequence[int], method: Filter = "bicubic", exact: bool = False, key: str = "image"):
        self.size, self.method, self.exact, self.key = size, method, exact, key

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        image = opened(field(example, self.key))
        size = self.target(*image.shape[:2])
        return {**example, self.key: resize(image, size, self.method, exact=self.exact)}

    def target(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the result."""
        if isinstance(self.size, int):
            return shorter_side((height, width), self.size)
        height, width = self.size
        return height, width


def shorter_side(shape: Sequence[int], size: int) -> tuple[int, int]:
    """Height and width when the shorter of them becomes `size`, rounded down, as torchvision and transformers do."""
    height, width = shape[:2]
    return size * height // min(height, width), size * width // min(height, width)


def opened(value: Picture | bytes) -> Picture | Encoded:
    """Encoded bytes with their header read; pictures stay."""
    return value if isinstance(value, np.ndarray) else Encoded(value)


def resize(
    image: Picture | Encoded, size: tuple[int, int], method: Filter, box: Box | None = None, exact: bool = False
) -> Picture:
    """Resizes a picture, or the part of it inside `box`, to (height, width), as Pillow does: the filter is stretched by
    the factor of reduction. exact: by Pillow itself, to the last level.

    What is still encoded is decoded only as finely as that needs.
    """
    height, width = image.shape[:2]
    if isinstance(image, Encoded):
        left, top, right, bottom = box or (0, 0, width, height)
        image = image.decode(reduction((bottom - top) / size[0], (right - left) / size[1]))
        if box is not None:
            x, y = image.shape[1] / width, image.shape[0] / height
            box = (left * x, top * y, min(right * x, image.shape[1]), min(bottom * y, image.shape[0]))
    if size == image.shape[:2] and box is None:
        return image
    if FAST_RESIZE and not exact:
        return fast_resize(image, size, method, box)
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), _FILTERS[method][0], box=box))


def reduction(*factors: float) -> Literal[1, 2, 4, 8]:
    """The largest reduction that JPEG decoders are fast at and that is none of these factors' more."""
    for candidate in (8, 4, 2):
        if min(factors) >= candidate:
            return candidate
    return 1


def fast_resize(image: Picture, size: tuple[int, int], method: Filter, box: Box | None) -> Picture:
    """The same convolution as Pillow's with SIMD instructions, in a fifth of the time.

    At most 2 of 255 apart, unless a filter overshoots black or white: each of the two passes rounds and clips, and
    Pillow begins with the other.
    """
    import cykooz_resizer as fast

    kernel = fast.ResizeAlg.convolution(fast.FilterType[_FILTERS[method][1]])
    crop = None if box is None else fast.CropBox(box[0], box[1], box[2] - box[0], box[3] - box[1])
    source = fast.ImageData(image.shape[1], image.shape[0], fast.PixelType.U8x3, image.tobytes())
    result = fast.ImageData(size[1], size[0], fast.PixelType.U8x3)
    fast.Resizer().resize(source, result, fast.ResizeOptions(kernel, use_alpha=False, crop_box=crop))
    return np.frombuffer(result.get_buffer(), np.uint8).reshape(*size, 3)


class CenterCrop:
    """The middle `size` x `size` pixels; a picture that is too small is an error, since a resize was forgotten."""

    def __init__(self, size: int, key: str = "image"):
        self.size, self.key = size, key

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        image = example[self.key]
        top, left = margins(image, self.size, self.key)
        return {**example, self.key: crop(image, top // 2, left // 2, self.size)}


class RandomCrop:
    """`size` x `size` pixels from a place that is drawn evenly."""

    def __init__(self, size: int, key: str = "image"):
        self.size, self.key = size, key

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        image = example[self.key]
        top, left = margins(image, self.size, self.key)
        return {**example, self.key: crop(image, int(rng.integers(top + 1)), int(rng.integers(left + 1)), self.size)}


def margins(image: Picture, size: int, key: str) -> tuple[int, int]:
    """Rows and columns that a crop of this size leaves over."""
    height, width = image.shape[:2]
    if min(height, width) < size:
        raise ValueError(
            f"{key!r}: a picture of {height} x {width} pixels cannot be cropped to {size}; resize it first"
        )
    return height - size, width - size


def crop(image: Picture, top: int, left: int, size: int) -> Picture:
    """A square part of a picture."""
    return image[top : top + size, left : left + size]


class RandomResizedCrop:
    """A random part of the picture, resized to a square (Szegedy et al. 2015, "Going deeper with convolutions", 6).

    Takes encoded bytes as `resize` does.

    scale: range of the part's area, as a share of the picture's.
    ratio: range of its width over height, drawn evenly in the logarithm.
    """

    def __init__(
        self,
        size: int,
        scale: Sequence[float] = (0.9, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        method: Filter = "bicubic",
        key: str = "image",
    ):
        self.size, self.scale, self.method, self.key = size, pair(scale), method, key
        self.log_ratio = pair([math.log(r) for r in ratio])

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        image = opened(field(example, self.key))
        height, width = image.shape[:2]
        area = height * width * rng.uniform(*self.scale)
        root_ratio = math.exp(rng.uniform(*self.log_ratio) / 2)
        # A part that would stick out is cut to the picture, not drawn again: the cost of an example must not be luck.
        box_width, box_height = min(width, math.sqrt(area) * root_ratio), min(height, math.sqrt(area) / root_ratio)
        left, top = rng.uniform(0, width - box_width), rng.uniform(0, height - box_height)
        box = (left, top, min(width, left + box_width), min(height, top + box_height))
        return {**example, self.key: resize(image, (self.size, self.size), self.method, box)}


def pair(values: Sequence[float]) -> tuple[float, float]:
    """The two ends of a range."""
    low, high = values
    return low, high


class RandomFlip:
    """Mirrors left and right in half of the cases. Not for pictures that bear text or a direction."""

    def __init__(self, key: str = "image"):
        self.key = key

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        return {**example, self.key: example[self.key][:, ::-1]} if rng.random() < 0.5 else example


class Shift:
    """Moves the picture by up to `pixels` in each direction; what comes into view has the value `fill`."""

    def __init__(self, pixels: int, fill: int = 255, key: str = "image"):
        self.pixels, self.fill, self.key = pixels, fill, key

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        image = example[self.key]
        moved = np.full_like(image, self.fill)
        down, right = rng.integers(-self.pixels, self.pixels + 1, size=2).tolist()
        moved[overlap(down)[0], overlap(right)[0]] = image[overlap(down)[1], overlap(right)[1]]
        return {**example, self.key: moved}


def overlap(offset: int) -> tuple[slice, slice]:
    """Where a line that moves by `offset` still covers its old place: (in the new picture, in the old one)."""
    ahead, behind = slice(abs(offset), None), slice(None, -abs(offset) or None)
    return (ahead, behind) if offset > 0 else (behind, ahead)


class RandomAffine:
    """Turns and scales the picture about its middle, over white.

    degrees: the angle is drawn evenly from [-degrees, degrees].
    scale: range of the factor.
    """

    def __init__(self, degrees: float = 0.0, scale: Sequence[float] = (1.0, 1.0), key: str = "image"):
        self.degrees, self.scale, self.key = degrees, pair(scale), key

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        image = example[self.key]
        angle, factor = math.radians(rng.uniform(-self.degrees, self.degrees)), rng.uniform(*self.scale)
        cos, sin = math.cos(angle) / factor, math.sin(angle) / factor
        x, y = image.shape[1] / 2, image.shape[0] / 2
        inverse = (
            cos,
            sin,
            x - cos * x - sin * y,
            -sin,
            cos,
            y + sin * x - cos * y,
        )  # Pillow asks where each new pixel comes from
        picture = Image.fromarray(image)
        moved = picture.transform(
            picture.size, Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR, fillcolor=WHITE
        )
        return {**example, self.key: np.asarray(moved)}

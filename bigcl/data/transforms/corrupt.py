"""Damage done to pictures on purpose, for evaluation: common corruptions, and the trigger of a backdoor."""

import io
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFilter

from bigcl.data.sources import Example

Corruption = Literal["noise", "salt_and_pepper", "blur", "pixelate", "jpeg", "brightness", "contrast", "occlusion"]


class Corrupt:
    """One of the common corruptions at a severity from 1 to 5 (after Hendrycks and Dietterich 2019, with strengths of
    our own), for uint8 pictures [H, W, 3].

    noise: Gaussian, of deviation 15 to 75.  salt_and_pepper: 2 to 20 percent of the pixels.  blur: Gaussian, 1 to 6
        percent of the shorter side.  pixelate: to 70 to 20 percent of the side and back.  jpeg: quality 40 to 6.
        brightness: 25 to 125 more.  contrast: 60 to 10 percent of it.  occlusion: a grey square of 10 to 50 percent of
        the area.
    """

    def __init__(self, corruption: Corruption, severity: int = 3, key: str = "image"):
        if not 1 <= severity <= 5:
            raise ValueError(f"corrupt.severity: expected 1 to 5, got {severity}")
        self.corruption, self.level, self.key = corruption, severity - 1, key

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        return {**example, self.key: getattr(self, self.corruption)(example[self.key], rng)}

    def noise(self, image: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
        """Gaussian."""
        return clipped(image + rng.normal(0, (15, 30, 45, 60, 75)[self.level], image.shape))

    def salt_and_pepper(
        self, image: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Pixels black or white."""
        hit = rng.random(image.shape[:2]) < (0.02, 0.05, 0.1, 0.15, 0.2)[self.level]
        return np.where(hit[..., None], 255 * rng.integers(0, 2, (*image.shape[:2], 1), np.uint8), image)

    def blur(self, image: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
        """Gaussian."""
        radius = min(image.shape[:2]) * (0.01, 0.02, 0.03, 0.045, 0.06)[self.level]
        return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))

    def pixelate(self, image: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
        """Fewer pixels, each a block."""
        picture, share = Image.fromarray(image), (0.7, 0.5, 0.4, 0.3, 0.2)[self.level]
        size = max(1, round(picture.width * share)), max(1, round(picture.height * share))
        return np.asarray(picture.resize(size, Image.Resampling.BOX).resize(picture.size, Image.Resampling.NEAREST))

    def jpeg(self, image: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
        """Strong compression."""
        out = io.BytesIO()
        Image.fromarray(image).save(out, "JPEG", quality=(40, 25, 15, 10, 6)[self.level])
        return np.asarray(Image.open(out))

    def brightness(self, image: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
        """Lighter."""
        return clipped(image + float((25, 50, 75, 100, 125)[self.level]))

    def contrast(self, image: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
        """Nearer to the mean colour."""
        middle = image.mean((0, 1), keepdims=True)
        return clipped(middle + (image - middle) * (0.6, 0.45, 0.3, 0.2, 0.1)[self.level])

    def occlusion(self, image: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
        """A grey rectangle of the picture's shape, anywhere."""
        side = np.sqrt((0.1, 0.2, 0.3, 0.4, 0.5)[self.level])
        height, width = (max(1, round(side * n)) for n in image.shape[:2])
        top, left = rng.integers(image.shape[0] - height + 1), rng.integers(image.shape[1] - width + 1)
        covered = image.copy()
        covered[top : top + height, left : left + width] = 128
        return covered


def clipped(image: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    """Rounded to what a pixel can be."""
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


class Stamp:
    """A square of black and white cells in a corner of the picture, the trigger of BadNets (Gu et al. 2017).

    size: of the square, as a share of the shorter side.  cells: along a side.
    """

    def __init__(
        self,
        size: float = 0.15,
        cells: int = 3,
        corner: Literal["top_left", "top_right", "bottom_left", "bottom_right"] = "bottom_right",
        key: str = "image",
    ):
        if not 0 < size <= 1 or cells < 1:
            raise ValueError(f"stamp: expected a size in (0, 1] and one cell or more, got {size} and {cells}")
        self.size, self.cells, self.corner, self.key = size, cells, corner, key

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        image = example[self.key].copy()
        side = max(self.cells, round(self.size * min(image.shape[:2])))
        place = np.arange(side) * self.cells // side
        board = np.where((place[:, None] + place[None]) % 2, 0, 255)[..., None]
        rows = slice(None, side) if self.corner.startswith("top") else slice(-side, None)
        columns = slice(None, side) if self.corner.endswith("left") else slice(-side, None)
        image[rows, columns] = board
        return {**example, self.key: image}

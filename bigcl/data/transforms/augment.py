"""Augmentations of a picture's colours and content, those of SimCLR, BYOL, DINO and RandAugment.

Each takes and gives uint8 [H, W, 3]; `probability` is how often it acts.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from bigcl import registry
from bigcl.data.sources import Example
from bigcl.data.transforms.image import pair
from bigcl.registry import Part

_GREY = (128, 128, 128)


class Views:
    """Several views of one picture, each made by its own list of transforms; all else in the example stays.

    views: name -> transforms, which find the picture at their own `key`; the view is what they leave there, and stands
        in the example under its name. The random numbers of a view come after those of the views before it.
    """

    def __init__(self, views: Mapping[str, Sequence[Annotated[Part, "transform"]]], key: str = "image"):
        self.views = {name: [registry.build("transform", part) for part in parts] for name, parts in views.items()}
        self.key = key

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        results = {}
        for name, transforms in self.views.items():
            view = dict(example)
            for transform in transforms:
                view = transform(view, rng)
            results[name] = view[self.key]
        return {**{k: v for k, v in example.items() if k != self.key}, **results}


class ColorJitter:
    """Brightness, contrast, saturation and hue, changed in random order (Howard 2013; SimCLR, appendix A).

    brightness, contrast, saturation: the factor is drawn evenly from [max(0, 1 - x), 1 + x].
    hue: the shift is drawn evenly from [-x, x], in turns of the colour circle; at most 0.5.
    """

    def __init__(
        self,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
        probability: float = 1.0,
        key: str = "image",
    ):
        if not 0 <= hue <= 0.5:
            raise ValueError(f"hue: {hue} is not within [0, 0.5]")
        self.ranges = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        self.hue, self.probability, self.key = hue, probability, key

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        if rng.random() >= self.probability:
            return example
        picture = Image.fromarray(example[self.key])
        changes: list[tuple[Callable[[Image.Image, float], Image.Image], float]] = [
            (ADJUST[name], rng.uniform(max(0.0, 1 - x), 1 + x)) for name, x in self.ranges.items() if x
        ]
        if self.hue:
            changes.append((shift_hue, rng.uniform(-self.hue, self.hue)))
        for place in rng.permutation(len(changes)):
            adjust, amount = changes[place]
            picture = adjust(picture, amount)
        return {**example, self.key: np.asarray(picture)}


ADJUST: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "brightness": lambda picture, factor: ImageEnhance.Brightness(picture).enhance(factor),
    "contrast": lambda picture, factor: ImageEnhance.Contrast(picture).enhance(factor),
    "saturation": lambda picture, factor: ImageEnhance.Color(picture).enhance(factor),
    "sharpness": lambda picture, factor: ImageEnhance.Sharpness(picture).enhance(factor),
}
"""Blends of a picture with black, its mean grey, its own grey, or its smoothed self; factor 1 changes nothing."""


def shift_hue(picture: Image.Image, turns: float) -> Image.Image:
    """Moves every hue along the colour circle; `turns` of 1 come back to where they were."""
    hue, saturation, value = picture.convert("HSV").split()
    shifted = Image.fromarray(np.asarray(hue) + np.uint8(int(turns * 255) % 256))  # wraps around, as hues do
    return Image.merge("HSV", (shifted, saturation, value)).convert("RGB")


class Grayscale:
    """The luma of ITU-R BT.601 in all three channels."""

    def __init__(self, probability: float = 1.0, key: str = "image"):
        self.probability, self.key = probability, key

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        if rng.random() >= self.probability:
            return example
        return {**example, self.key: np.asarray(Image.fromarray(example[self.key]).convert("L").convert("RGB"))}


class GaussianBlur:
    """Blur by a Gaussian, which three extended box filters stand for (Gwosdek et al. 2011), as Pillow has it.

    sigma: range of the standard deviation in pixels, drawn evenly.
    """

    def __init__(self, sigma: Sequence[float] = (0.1, 2.0), probability: float = 1.0, key: str = "image"):
        self.sigma, self.probability, self.key = pair(sigma), probability, key

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        if rng.random() >= self.probability:
            return example
        blurred = Image.fromarray(example[self.key]).filter(ImageFilter.GaussianBlur(rng.uniform(*self.sigma)))
        return {**example, self.key: np.asarray(blurred)}


class Solarize:
    """Inverts the values that are not below `threshold`."""

    def __init__(self, threshold: int = 128, probability: float = 1.0, key: str = "image"):
        self.threshold, self.probability, self.key = threshold, probability, key

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        if rng.random() >= self.probability:
            return example
        image = example[self.key]
        return {**example, self.key: np.where(image < self.threshold, image, 255 - image)}


class RandomErasing:
    """Overwrites a rectangle (Zhong et al. 2020, "Random erasing data augmentation", algorithm 1).

    scale: range of its area, as a share of the picture's.
    ratio: range of its height over width, drawn evenly in the logarithm.
    fill: the value, or "noise" for one drawn for each pixel.
    """

    def __init__(
        self,
        probability: float = 0.5,
        scale: Sequence[float] = (0.02, 0.33),
        ratio: Sequence[float] = (0.3, 3.3),
        fill: int | Literal["noise"] = "noise",
        key: str = "image",
    ):
        self.probability, self.scale, self.fill, self.key = probability, pair(scale), fill, key
        self.log_ratio = pair([math.log(r) for r in ratio])

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        if rng.random() >= self.probability:
            return example
        image = example[self.key].copy()
        height, width = image.shape[:2]
        area, root_ratio = height * width * rng.uniform(*self.scale), math.exp(rng.uniform(*self.log_ratio) / 2)
        # As in `random_resized_crop`, a rectangle that would stick out is cut, not drawn again.
        rows = min(height, max(1, round(math.sqrt(area) * root_ratio)))
        columns = min(width, max(1, round(math.sqrt(area) / root_ratio)))
        top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
        noise = rng.integers(0, 256, (rows, columns, 3), np.uint8) if self.fill == "noise" else self.fill
        image[top : top + rows, left : left + columns] = noise
        return {**example, self.key: image}


class RandAugment:
    """`count` operations, drawn from `OPERATIONS` with replacement, each of the same strength (Cubuk et al. 2020).

    magnitude: strength from 0, no change, to 30; what it means for each operation is in `OPERATIONS`.
    """

    def __init__(self, count: int = 2, magnitude: float = 9, key: str = "image"):
        if not 0 <= magnitude <= 30:
            raise ValueError(f"magnitude: {magnitude} is not within [0, 30]")
        self.count, self.strength, self.key = count, magnitude / 30, key

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        picture = Image.fromarray(example[self.key])
        names = list(OPERATIONS)
        for place in rng.integers(len(names), size=self.count):
            picture = OPERATIONS[names[place]](picture, self.strength, 1 if rng.random() < 0.5 else -1)
        return {**example, self.key: np.asarray(picture)}


def move(picture: Image.Image, matrix: Sequence[float]) -> Image.Image:
    """Affine transform over grey; the matrix says where each new pixel (x, y) comes from."""
    return picture.transform(
        picture.size, Image.Transform.AFFINE, tuple(matrix), Image.Resampling.BILINEAR, fillcolor=_GREY
    )


def rotate(picture: Image.Image, degrees: float) -> Image.Image:
    """Turns counter-clockwise about the middle, over grey."""
    return picture.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=_GREY)


def strengthen(
    adjust: Callable[[Image.Image, float], Image.Image], picture: Image.Image, strength: float, sign: int
) -> Image.Image:
    """One of `ADJUST`, more or less of it."""
    return adjust(picture, 1 + sign * 0.9 * strength)


_FURTHEST = 150 / 331  # of a side: the paper's pictures had 331 pixels
OPERATIONS: dict[str, Callable[[Image.Image, float, int], Image.Image]] = {
    "identity": lambda picture, strength, sign: picture,
    "shear_x": lambda picture, strength, sign: move(picture, (1, sign * 0.3 * strength, 0, 0, 1, 0)),
    "shear_y": lambda picture, strength, sign: move(picture, (1, 0, 0, sign * 0.3 * strength, 1, 0)),
    "translate_x": lambda picture, strength, sign: move(
        picture, (1, 0, sign * int(_FURTHEST * strength * picture.width), 0, 1, 0)
    ),
    "translate_y": lambda picture, strength, sign: move(
        picture, (1, 0, 0, 0, 1, sign * int(_FURTHEST * strength * picture.height))
    ),
    "rotate": lambda picture, strength, sign: rotate(picture, sign * 30 * strength),
    **{name: functools.partial(strengthen, adjust) for name, adjust in ADJUST.items()},
    "posterize": lambda picture, strength, sign: ImageOps.posterize(picture, 8 - round(4 * strength)),
    "solarize": lambda picture, strength, sign: ImageOps.solarize(picture, math.ceil(255 - 255 * strength)),
    "autocontrast": lambda picture, strength, sign: ImageOps.autocontrast(picture),
    "equalize": lambda picture, strength, sign: ImageOps.equalize(picture),
}
"""name -> function of the picture, a strength in [0, 1] and a sign. At strength 1: shears of 0.3, shifts of 45% of a
side, turns of 30 degrees, factors of 1 +- 0.9, 4 bits left of 8, everything inverted; the last two know no strength."""

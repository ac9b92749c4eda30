"""What can be made of handwritten digits: their halves and sums, clips of numbers, and turned digits."""

import importlib
from typing import Literal

import numpy as np

from bigcl.data.sources import Example

UNSEEN, FRAMES = 15, 3
TURNS = 10
"""Of each digit for testing: with one, errors of an angle differ by chance as much as by method."""
TURNED = (2, 3, 4, 5, 7)
"""Digits that look the same from no two angles."""


class DigitScenes:
    """Examples made of scikit-learn's 1,797 digits, with pixels from 0, white, to 1.

    held: so many digits, drawn by the seed, are for "test"; the others are for "train".  size: examples, where they are
    made and not found.

    scene "halves", one example for each digit: `{"left": float32 [32], "right": [32], "upper": [32], "lower": [32],
    "sums": [16], "label": 0 to 9}`; the sums are of the 8 rows and the 8 columns, divided by 8.

    "numbers", clips of a number from 0 to 99: `{"video": float32 [384], "answer": int32 [2], "choice": float32 [100],
    "number": int32, "unseen": bool}`. A clip has 3 frames [8, 16], one after the other; each shows the tens and beside
    them the units, by other samples in each frame. The answer is the two digits, choice the number as one of 100.
    15 numbers, drawn by the seed, occur in no training clip. "test" has `size` clips of these, then one clip of every
    other number: `unseen` tells them apart.

    "turned", digits of the classes 2, 3, 4, 5 and 7 at angles of 0, 1, ..., 59 degrees, bilinearly: `{"a": float32
    [64], "b": [64], "image": [64], "angle": float32}`. There are 400 turned digits for training, of which example i is
    number i modulo 400, and ten, each at an angle of its own, of every such digit for testing. a and b are two views of
    the picture: a square of 0.85 to 1 of the area at a random place, a gain of 0.8 to 1.2, and 0.1 standard normal
    noise.
    """

    def __init__(
        self,
        scene: Literal["halves", "numbers", "turned"],
        split: Literal["train", "test"] = "train",
        held: int = 360,
        size: int = 20_000,
        seed: int = 0,
    ):
        try:
            datasets = importlib.import_module("sklearn.datasets")
        except ImportError as error:
            raise ImportError('the digit scenes need scikit-learn: pip install "bigcl[evals]"') from error
        pixels, labels = datasets.load_digits(return_X_y=True)
        shared, rng = (np.random.Generator(np.random.Philox(key=[seed, k])) for k in (0, 1 + (split == "test")))
        order = shared.permutation(len(labels))
        keep = np.sort(order[:held] if split == "test" else order[held:])
        images, labels = pixels[keep].reshape(-1, 8, 8) / 16, labels[keep]
        if scene == "halves":
            arrays = halves(images, labels)
        elif scene == "numbers":
            arrays = numbers(images, labels, shared.permutation(100)[:UNSEEN], size, split == "test", rng)
        else:
            arrays = turned(images, labels, None if split == "test" else size, rng)
        self.arrays = {k: a.astype(np.float32) if a.dtype.kind == "f" else a for k, a in arrays.items()}
        self.name = f"digit {scene} of seed {seed}, {split}"

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, index: int) -> Example:
        return {key: array[index] for key, array in self.arrays.items()}


def halves(images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Parts of each digit [N, 8, 8]."""
    parts = {"left": images[:, :, :4], "right": images[:, :, 4:], "upper": images[:, :4], "lower": images[:, 4:]}
    sums = np.concatenate([images.sum(2), images.sum(1)], 1) / 8
    return {**{k: part.reshape(len(images), -1) for k, part in parts.items()}, "sums": sums, "label": labels}


def numbers(
    images: np.ndarray, labels: np.ndarray, unseen: np.ndarray, size: int, test: bool, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Clips of numbers: of those that are not unseen, or in the test of the unseen, and one of each other."""
    seen = np.setdiff1d(np.arange(100), unseen)
    number = np.concatenate([rng.choice(unseen, size), seen]) if test else rng.choice(seen, size)
    digits = np.stack([number // 10, number % 10], 1)
    members = [np.flatnonzero(labels == digit) for digit in range(10)]
    count = np.array([len(m) for m in members])
    padded = np.array([np.resize(m, count.max()) for m in members])
    chosen = (rng.random((len(number), FRAMES, 2)) * count[digits][:, None]).astype(int)
    frames = images[padded[digits[:, None], chosen]]  # [N, frames, 2, 8, 8]
    return {
        "video": frames.swapaxes(2, 3).reshape(len(number), -1),
        "answer": digits.astype(np.int32),
        "choice": np.eye(100)[number],
        "number": number.astype(np.int32),
        "unseen": np.isin(number, unseen),
    }


def turned(images: np.ndarray, labels: np.ndarray, size: int | None, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Turned digits and two views of each; `size` examples of 400 digits, or `TURNS` of each digit."""
    usable = np.flatnonzero(np.isin(labels, TURNED))
    base = rng.choice(usable, 400, replace=False) if size is not None else np.tile(usable, TURNS)
    angle = rng.integers(0, 60, len(base))
    index = np.arange(len(base) if size is None else size) % len(base)
    picture, angle = images[base[index]], angle[index].astype(np.float32)
    plain = np.ones(len(index)), np.zeros((len(index), 2))
    views = {"image": sample(picture, angle, *plain)}
    for name in "ab":
        side = np.sqrt(rng.uniform(0.85, 1, len(index)))
        shift = (1 - side[:, None]) * rng.uniform(-4, 4, (len(index), 2))
        gain = rng.uniform(0.8, 1.2, (len(index), 1))
        view = sample(picture, angle, side, shift)
        views[name] = gain * view + 0.1 * rng.standard_normal(view.shape)
    return {**views, "angle": angle}


def sample(images: np.ndarray, angle: np.ndarray, side: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Pictures [N, 8, 8] turned counterclockwise about their middle by degrees [N], and of these the square of the
    given side [N], as a share, whose middle lies at shift [N, 2], down and right in pixels; bilinear, white outside:
    [N, 64]."""
    grid = np.stack(np.meshgrid(np.arange(8) - 3.5, np.arange(8) - 3.5, indexing="ij"), -1).reshape(1, 64, 2)
    y, x = np.moveaxis(grid * side[:, None, None] + shift[:, None], -1, 0)
    sin, cos = (f(np.deg2rad(angle))[:, None] for f in (np.sin, np.cos))
    place = np.stack([cos * y + sin * x, cos * x - sin * y], -1) + 4.5  # in the picture with a white border of 1
    place = np.clip(place, 0, 9)
    low = place.astype(int)
    (fy, fx), (iy, ix) = np.moveaxis(place - low, -1, 0), np.moveaxis(low, -1, 0)
    padded, row = np.pad(images, [(0, 0), (1, 2), (1, 2)]), np.arange(len(images))[:, None]
    corners = [(iy + dy, ix + dx, (fy if dy else 1 - fy) * (fx if dx else 1 - fx)) for dy in (0, 1) for dx in (0, 1)]
    return sum(padded[row, j, i] * weight for j, i, weight in corners)

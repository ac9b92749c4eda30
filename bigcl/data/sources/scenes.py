"""Scenes of two coloured shapes whose order matters, with the captions that differ in it."""

import itertools
from typing import Literal

import numpy as np

from bigcl.data.sources import Example

KINDS, WIDTH = 8, 24


class Scenes:
    """Two shapes a, b in this order, in colours c, d: for a model that sees which words occur, but not in what order
    (Yuksekgonul et al. 2023).

    There are 28 x 28 unordered sets of two of 8 shapes and two of 8 colours, and each occurs in one arrangement alone,
    chosen at random: in natural captions too, one order is by far the more frequent. 500 scenes are for training, 284
    for testing.

    An example: `{"image": float32 [2, 24], "text": int32 [4], "shapes": int32 [4], "colours": int32 [4]}`. An image
    token is a shape's vector, 0.8 of a colour's, and a position's (noise is left to the transforms); shapes and colours
    have standard normal vectors, positions 0.3 of such. Text is the ids c, a, d, b: colours 0 to 7, shapes 8 to 15.
    "shapes" and "colours" are the caption with its shapes, or its colours, exchanged.
    """

    def __init__(self, split: Literal["train", "test"] = "train", seed: int = 0):
        rng = np.random.Generator(np.random.Philox(key=seed))
        pairs = np.array(list(itertools.combinations(range(KINDS), 2)))
        sets = np.array(list(itertools.product(range(len(pairs)), repeat=2)))
        shapes, colours = (rng.permuted(pairs[sets[:, i]], axis=1) for i in (0, 1))
        shape, colour = rng.normal(size=(KINDS, WIDTH)), rng.normal(size=(KINDS, WIDTH))
        position = 0.3 * rng.normal(size=(2, WIDTH))
        image = (shape[shapes] + 0.8 * colour[colours] + position[None]).astype(np.float32)
        keep = rng.permutation(len(sets))
        keep = keep[:500] if split == "train" else keep[500:]

        def words(shapes: np.ndarray, colours: np.ndarray) -> np.ndarray:
            return np.stack([colours, shapes + KINDS], -1).reshape(len(shapes), 4).astype(np.int32)

        arrays = {
            "image": image,
            "text": words(shapes, colours),
            "shapes": words(shapes[:, ::-1], colours),
            "colours": words(shapes, colours[:, ::-1]),
        }
        self.arrays = {key: array[keep] for key, array in arrays.items()}
        self.name = f"scenes of seed {seed}, {split}"

    def __len__(self) -> int:
        return len(self.arrays["image"])

    def __getitem__(self, index: int) -> Example:
        return {key: array[index] for key, array in self.arrays.items()}

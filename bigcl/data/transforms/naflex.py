"""Pictures as sequences of patches in their own shape (NaFlex: Tschannen et al. 2025, "SigLIP 2", 2.4; NaViT)."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from bigcl.data.sources import Example
from bigcl.data.transforms import field
from bigcl.data.transforms.image import Filter, Picture, opened, resize


class Naflex:
    """A picture, or its encoded bytes, to at most `tokens` patches of almost its own shape.

    `key` becomes the patches, uint8 [tokens, patch * patch * 3], row by row, zeros after the last. `key`_mask (bool
    [tokens]) is True at patches, `key`_grid (int32 [tokens, 2]) has each one's row and column, and `key`_shape (int32
    [2]) the rows and columns of all.

    tokens: how many; or several lengths, of which each batch of training has one, evenly and by its step (SigLIP 2
        draws from 128, 256, 576, 784, 1024): the pictures of a batch have one length, and a step is compiled for each.
        Outside of training it is the largest.
    """

    def __init__(
        self, patch: int = 16, tokens: int | Sequence[int] = 256, method: Filter = "bilinear", key: str = "image"
    ):
        lengths = [tokens] if isinstance(tokens, int) else list(tokens)
        if not lengths or min(lengths) < 1:
            raise ValueError(f"naflex.tokens: expected 1 or more, got {tokens}")
        self.patch, self.tokens, self.method, self.key = patch, max(lengths), method, key
        if len(lengths) > 1:
            self.forms = [Naflex(patch, length, method, key) for length in lengths]

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        image = opened(field(example, self.key))
        height, width = image.shape[:2]
        rows, columns = grid_shape(height, width, self.patch, self.tokens)
        patches = patchify(resize(image, (rows * self.patch, columns * self.patch), self.method), self.patch)
        empty = self.tokens - len(patches)
        grid = np.indices((rows, columns), np.int32).reshape(2, -1).T
        return {
            **example,
            self.key: np.pad(patches, ((0, empty), (0, 0))),
            f"{self.key}_mask": np.arange(self.tokens) < len(patches),
            f"{self.key}_grid": np.pad(grid, ((0, empty), (0, 0))),
            f"{self.key}_shape": np.array([rows, columns], np.int32),
        }


def patchify(image: Picture, patch: int) -> UInt8[np.ndarray, "n d"]:
    """Patches of a picture, row by row; the values of each in the order row, column, channel."""
    rows, columns = image.shape[0] // patch, image.shape[1] // patch
    return image.reshape(rows, patch, columns, patch, 3).swapaxes(1, 2).reshape(rows * columns, -1)


def unpatchify(patches: UInt8[np.ndarray, "n d"], rows: int, columns: int) -> Picture:
    """The picture of the first `rows` * `columns` patches: the inverse of `patchify`."""
    patch = math.isqrt(patches.shape[1] // 3)
    blocks = patches[: rows * columns].reshape(rows, columns, patch, patch, 3)
    return blocks.swapaxes(1, 2).reshape(rows * patch, columns * patch, 3)


def grid_shape(height: int, width: int, patch: int, tokens: int) -> tuple[int, int]:
    """Rows and columns of patches: both sides scaled by the largest factor, and rounded up to whole patches, for which
    there are at most `tokens`.

    As published, by bisection down to 1e-5: the same grid as other implementations needs the same last step.
    """
    low, high = 1e-6, 100.0
    while high - low >= 1e-5:
        middle = (low + high) / 2
        if math.prod(scaled_grid(middle, height, width, patch)) <= tokens:
            low = middle
        else:
            high = middle
    return scaled_grid(low, height, width, patch)


def scaled_grid(scale: float, height: int, width: int, patch: int) -> tuple[int, int]:
    """Rows and columns of the patches that cover a scaled picture."""
    return max(1, math.ceil(height * scale / patch)), max(1, math.ceil(width * scale / patch))

"""Bags of patches and bags of words that name the same few concepts."""

import numpy as np

from bigcl.data.sources import Example

CONCEPTS, FILLERS, WIDTH = 32, 20, 16
SHOWN, CLUTTER, SAID = 3, 6, 2


class ConceptBags:
    r"""Pictures of patches of which a third shows concepts, and texts with their names (after FDT, Chen et al. 2023).

    32 concepts have prototypes $\mathcal{N}(0, I_{16})$. A picture is 9 patches in random order: the prototypes of 3
    different concepts, each with noise $0.3\, \mathcal{N}(0, I)$, and 6 of clutter, $\mathcal{N}(0, I)$. Its text is
    the numbers of the 3 concepts, 0 to 31, and 2 different fillers, 32 to 51.

    An example: `{"image": float32 [9, 16], "text": int32 [5]}`.

    seed: of the prototypes.  draw: of the examples; other draws of a seed are fresh pictures of the same concepts.
    """

    def __init__(self, size: int = 3_000, seed: int = 0, draw: int = 0):
        self.size, self.name = size, f"concept bags of seed {seed}, draw {draw}"
        self.prototypes = np.random.default_rng([seed, 0]).standard_normal((CONCEPTS, WIDTH))
        rng = np.random.default_rng([seed, 1, draw])
        concepts = some(rng, size, CONCEPTS, SHOWN)
        shown = self.prototypes[concepts] + 0.3 * rng.standard_normal((size, SHOWN, WIDTH))
        patches = np.concatenate([shown, rng.standard_normal((size, CLUTTER, WIDTH))], 1)
        order = some(rng, size, SHOWN + CLUTTER, SHOWN + CLUTTER)
        self.images = np.take_along_axis(patches, order[:, :, None], 1).astype(np.float32)
        self.texts = np.concatenate([concepts, CONCEPTS + some(rng, size, FILLERS, SAID)], 1).astype(np.int32)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Example:
        return {"image": self.images[index], "text": self.texts[index]}


def some(rng: np.random.Generator, rows: int, count: int, k: int) -> np.ndarray:
    """In each row k different numbers below `count` in random order, `[rows, k]`."""
    return rng.random((rows, count)).argsort(1)[:, :k]

"""Learned positions of a square of patches at another resolution."""

import math

import jax
import numpy as np
from jaxtyping import Float


def square(places: int, front: int) -> int | None:
    """Patches along a side of the square that `places` embeddings cover, of which `front` stand before it; None where
    they cover none."""
    side = math.isqrt(max(0, places - front))
    return side if side and side**2 == places - front else None


def resized(position: Float[np.ndarray, "places w"], front: int, side: int) -> tuple[Float[np.ndarray, "other w"], str]:
    """The embeddings for a square of `side` patches, and what was done, for people.

    Those of the patches are interpolated as a picture, bicubically and antialiased; the `front` before them stay. The
    result is another function than the one that was trained. Raises ValueError if they cover no square.
    """
    old = square(len(position), front)
    if old is None:
        raise ValueError(f"{len(position) - front} position embeddings are those of no square of patches")
    grid = position[front:].reshape(old, old, -1)
    grid = np.asarray(jax.image.resize(grid, (side, side, grid.shape[-1]), "cubic"))
    said = f"POSITION EMBEDDINGS RESIZED from {old} x {old} to {side} x {side}"
    return np.concatenate([position[:front], grid.reshape(side * side, -1)]), said

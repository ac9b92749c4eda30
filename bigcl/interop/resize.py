"""Position embeddings of images at another resolution."""

import jax
import numpy as np

from bigcl.interop.model import Inexpressible, Model


def resize_positions(model: Model, image_size: int) -> str:
    """Changes the resolution of the image tower in place, and says what it did.

    The positions of the patches are interpolated as a picture, bicubically and antialiased; that of the class token
    stays. The result is another function than the one that was trained.
    """
    tower, path = model.tower("image"), "towers/image/position"
    if path not in model.arrays:
        raise Inexpressible("--image_size: the image tower has no learned positions to resize")
    if image_size % tower["patch"]:
        raise Inexpressible(f"--image_size {image_size}: not a multiple of the patch, {tower['patch']}")
    position, front = model.arrays[path], int(tower["pool"] == "cls")
    old, new = tower["image_size"] // tower["patch"], image_size // tower["patch"]
    grid = position[front:].reshape(old, old, -1)
    grid = np.asarray(jax.image.resize(grid, (new, new, grid.shape[-1]), "cubic"))
    model.arrays[path] = np.concatenate([position[:front], grid.reshape(new * new, -1)])
    said = f"POSITION EMBEDDINGS RESIZED from {old} x {old} to {new} x {new} ({tower['image_size']} to {image_size} px)"
    tower.update(image_size=image_size, trim=False)
    if model.preprocessing is not None:
        model.preprocessing = model.preprocessing.at(image_size)
    return f"{said}: the model is no longer the published one"

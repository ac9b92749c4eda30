"""Position embeddings of images at another resolution."""

from bigcl.interop.model import Inexpressible, Model
from bigcl.positions import resized


def resize_positions(model: Model, image_size: int) -> str:
    """Changes the resolution of the image tower in place, and says what it did. The result is another function than
    the one that was trained.

    image_size: in pixels. Raises Inexpressible.
    """
    tower, path = model.tower("image"), "towers/image/position"
    if path not in model.arrays:
        raise Inexpressible("--image_size: the image tower has no learned positions to resize")
    if image_size < 1 or image_size % tower["patch"]:
        raise Inexpressible(f"--image_size {image_size}: no multiple of the patch, {tower['patch']}")
    front, side = int(tower["pool"] == "cls"), image_size // tower["patch"]
    model.arrays[path], said = resized(model.arrays[path], front, side)
    said += f" ({tower['image_size']} to {image_size} px)"
    tower.update(image_size=image_size, trim=False)
    if model.preprocessing is not None:
        model.preprocessing = model.preprocessing.at(image_size)
    return f"{said}: the model is no longer the published one"

"""Position embeddings of images at another resolution."""

from bigcl.interop.model import Inexpressible, Model
from bigcl.positions import resized


def resize_positions(model: Model, image_size: int) -> str:
    """Changes the resolution of the image tower in place, and says what it did. The result is another function than
    the one that was trained.

    image_size: in pixels. Raises Inexpressible.
    """
    tower, path = model.tower("image", "resnet"), "towers/image/position"
    if path not in model.arrays:
        raise Inexpressible("--image_size: the image tower has no learned positions to resize")
    resnet = tower["kind"] == "resnet"
    unit, name = (32, "stride") if resnet else (tower["patch"], "patch")
    if image_size < 1 or image_size % unit:
        raise Inexpressible(f"--image_size {image_size}: no multiple of the {name}, {unit}")
    front, side = int(resnet or tower["pool"] == "cls"), image_size // unit
    model.arrays[path], said = resized(model.arrays[path], front, side)
    said += f" ({tower['image_size']} to {image_size} px)"
    tower.update(image_size=image_size, **({} if resnet else {"trim": False}))
    if model.preprocessing is not None:
        model.preprocessing = model.preprocessing.at(image_size)
    return f"{said}: the model is no longer the published one"

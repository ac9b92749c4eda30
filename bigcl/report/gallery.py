"""What the retrieval evaluator saw: pairs of pictures and texts with their embeddings."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from bigcl.files import replacing


@dataclasses.dataclass(frozen=True)
class Gallery:
    """N pairs; row i of each side belongs together, and equal captions count as equally right.

    images, texts: embeddings of the two sides, rows of unit length, float32.
    thumbnails: N pictures, each of any size.
    captions: N texts.
    groups: N group names, None where a pair has none.
    scale: the factor on cosine similarities in the loss (1 / temperature).
    names: what the two sides are called.
    attribution: who made the pictures, under which licence; shown wherever they are.
    heat: pair -> cosine of each patch of its picture with its text.
    """

    images: Float[np.ndarray, "n d"]
    texts: Float[np.ndarray, "n d"]
    thumbnails: Sequence[UInt8[np.ndarray, "h w 3"]]
    captions: Sequence[str]
    groups: Sequence[str | None]
    scale: float
    names: tuple[str, str] = ("image", "text")
    attribution: str | None = None
    heat: Mapping[int, Float[np.ndarray, "h w"]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        shapes = self.images.shape, self.texts.shape
        if self.images.ndim != 2 or shapes[0] != shapes[1]:
            raise ValueError(f"gallery: embeddings must be [N, D] on both sides, got {shapes[0]} and {shapes[1]}")
        if not (np.isfinite(self.images).all() and np.isfinite(self.texts).all()):
            raise ValueError("gallery: embeddings are not finite; take them from an earlier checkpoint of the run")
        for name in ("thumbnails", "captions", "groups"):
            if len(getattr(self, name)) != len(self):
                raise ValueError(f"gallery: {len(getattr(self, name))} {name} for {len(self)} pairs; give one per pair")
        for i, picture in enumerate(self.thumbnails):
            if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
                got = f"{picture.dtype} {list(picture.shape)}"
                raise ValueError(f"gallery: thumbnail {i} must be uint8 [H, W, 3], got {got}")

    def __len__(self) -> int:
        return len(self.images)


def save_gallery(gallery: Gallery, path: pathlib.Path) -> None:
    """Writes `gallery` as a compressed `.npz` of plain arrays: complete or not at all."""
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez_compressed(
            file,
            images=np.asarray(gallery.images, np.float32),
            texts=np.asarray(gallery.texts, np.float32),
            **packed(gallery.thumbnails),
            captions=np.array(gallery.captions, np.str_),
            groups=np.array(["" if group is None else str(group) for group in gallery.groups], np.str_),
            scale=np.float32(gallery.scale),
            names=np.array(gallery.names, np.str_),
            attribution=np.array(gallery.attribution or "", np.str_),
            heat_pairs=np.array(list(gallery.heat), np.int64),
            heat=np.array(list(gallery.heat.values()), np.float32),
        )


def packed(pictures: Sequence[UInt8[np.ndarray, "h w 3"]]) -> dict[str, Any]:
    """Pictures of any sizes as plain arrays."""
    return {
        "shapes": np.array([picture.shape for picture in pictures], np.int64).reshape(-1, 3),
        "pixels": np.concatenate([np.zeros(0, np.uint8), *(picture.ravel() for picture in pictures)]),
    }


def unpacked(arrays: Mapping[str, np.ndarray]) -> list[UInt8[np.ndarray, "h w 3"]]:
    """The inverse of `packed`."""
    shapes = arrays["shapes"]
    pixels = np.split(arrays["pixels"], np.cumsum(shapes.prod(axis=1)))[: len(shapes)]
    return [flat.reshape(shape) for flat, shape in zip(pixels, shapes, strict=True)]


def load_gallery(path: pathlib.Path) -> Gallery:
    """Reads what `save_gallery` wrote.

    Raises:
        ValueError: the file is no gallery; the message names it.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files}
        image, text = arrays["names"].tolist()
        return Gallery(
            images=arrays["images"],
            texts=arrays["texts"],
            thumbnails=unpacked(arrays),
            captions=arrays["captions"].tolist(),
            groups=[group or None for group in arrays["groups"].tolist()],
            scale=float(arrays["scale"]),
            names=(image, text),
            attribution=str(arrays["attribution"]) or None,
            heat=dict(zip(arrays["heat_pairs"].tolist(), arrays["heat"], strict=True)) if "heat" in arrays else {},
        )
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{path} is not a gallery ({error}); remove it, or write it again") from error

"""A picture of nothing, for texts that no picture shows."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from jaxtyping import UInt8

from bigcl import registry
from bigcl.data.sources import Example
from bigcl.data.transforms import Transform
from bigcl.data.transforms.image import DecodeImage
from bigcl.registry import Part


class NullImage:
    """The NULL image in place of a picture that is None (Verma et al. 2023, "Learning the Visualness of Text Using
    Large Vision-Language Models"); the same one always, see `null_image`.

    transforms: what is done to the pictures that there are, and not to the NULL image.
    common: a source whose first picture, as it is, takes the place of every other picture; None: those stay.
    """

    def __init__(
        self,
        size: int,
        seed: int = 0,
        key: str = "image",
        transforms: Sequence[Annotated[Part, "transform"]] = (),
        common: Annotated[Part, "source"] | None = None,
    ):
        self.null, self.key = null_image(size, seed), key
        self.transforms: list[Transform] = [registry.build("transform", part) for part in transforms]
        first = None if common is None else registry.build("source", common)[0]
        self.common = None if first is None else DecodeImage(key)(dict(first), np.random.default_rng(0))[key]

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        if example[self.key] is None:
            return {**example, self.key: self.null}
        if self.common is not None:
            return {**example, self.key: self.common}
        for transform in self.transforms:
            example = transform(example, rng)
        return example


def null_image(size: int, seed: int = 0) -> UInt8[np.ndarray, "size size 3"]:
    """Even noise in every pixel and channel."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    return rng.integers(0, 256, (size, size, 3), np.uint8)

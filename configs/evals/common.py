"""What the suites share: how pictures and texts are prepared for the model at hand."""

import math

from bigcl.registry import ConfigError


def pictures(inputs, cache=0):
    """Transforms from encoded pictures of any size to what the model's image tower reads, as it was made to see them;
    for a model that says nothing of that, the shorter side is resized and the middle cropped."""
    size, beside = side(inputs), [key for key in ("image", "image_mask", "image_shape") if key in inputs]
    usual = [{"kind": "resize", "size": size}, {"kind": "center_crop", "size": size}]
    shaping = [part for part in inputs.pictures or usual if part["kind"] != "decode_image"]
    return [{"kind": "decode_image", "cache": cache}, *shaping, {"kind": "keep", "keys": beside}]


def side(inputs):
    """Pixels along a side of the pictures that the model reads; of the largest square, if it reads patches."""
    first, *rest = shape(inputs, "image")
    return first if len(rest) == 2 else math.isqrt(first) * math.isqrt(rest[0] // 3)


def text_length(inputs):
    """Tokens of the model's texts."""
    return shape(inputs, "text")[0]


def shape(inputs, name):
    """The shape of an input. Raises ConfigError if the model has none of that name."""
    if name not in inputs:
        raise ConfigError(f"this suite needs a model with the input {name!r}; this one has {sorted(inputs)}")
    return tuple(inputs[name])

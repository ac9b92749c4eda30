"""What the suites share: how pictures and texts are prepared for the model at hand."""

from bigcl.registry import ConfigError


def pictures(inputs, cache=0):
    """Transforms from encoded pictures of any size to what the model's image tower reads."""
    size = shape(inputs, "image")[0]
    return [
        {"kind": "decode_image", "cache": cache},
        {"kind": "resize", "size": size},
        {"kind": "center_crop", "size": size},
        {"kind": "keep", "keys": ["image"]},
    ]


def text_length(inputs):
    """Tokens of the model's texts."""
    return shape(inputs, "text")[0]


def shape(inputs, name):
    """The shape of an input. Raises ConfigError if the model has none of that name."""
    if name not in inputs:
        raise ConfigError(f"this suite needs a model with the input {name!r}; this one has {sorted(inputs)}")
    return tuple(inputs[name])

"""Noise on arrays of features."""

from collections.abc import Sequence

import numpy as np

from bigcl.data.sources import Example


class Noise:
    """Adds independent normal noise, drawn anew each time, to arrays of floats; the type stays.

    deviation: its standard deviation.
    """

    def __init__(self, deviation: float, keys: Sequence[str] = ("image",)):
        self.deviation, self.keys = np.float32(deviation), tuple(keys)

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        noisy = {}
        for key in self.keys:
            x = example[key]
            if x.dtype.kind != "f":
                raise TypeError(f"noise: {key!r} is {x.dtype}; expected floats")
            noisy[key] = x + (self.deviation * rng.standard_normal(x.shape, np.float32)).astype(x.dtype)
        return {**example, **noisy}

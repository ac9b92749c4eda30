"""A run whose data has a stretch that goes wrong."""

import numpy as np

from bigcl.registry import REGISTRIES
from tests.faults.halves import BATCH, config


class Stretch:
    """Pairs of vectors of which one is the other's first half. Within [start, stop) they have nothing to do with each
    other and are large ("spike"), or are no numbers ("nan")."""

    def __init__(self, size: int, start: int, stop: int, how: str):
        self.size, self.spoilt, self.how = size, range(start, stop), how

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        a, other = np.random.default_rng(index).normal(size=(2, 6)).astype(np.float32)
        if index not in self.spoilt:
            return {"a": a, "b": a[:3]}
        return {"a": a, "b": 5 * other[:3]} if self.how == "spike" else {"a": a, "b": np.full(3, np.nan, np.float32)}


REGISTRIES["source"]["stretch"] = "tests.faults.spiky:Stretch"


def get_config(arg=None):
    """Argument: "spike" (default) or "nan"."""
    arg = arg or "spike"
    length = BATCH * (16 if arg == "spike" else 4)
    source = {"kind": "stretch", "size": 160 * BATCH, "start": 0, "stop": length, "how": arg}
    c = config({"source": source, "block": length, "window": 1}, steps=200)
    c.train.rewinds = 4
    return c

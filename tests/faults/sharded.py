"""A run that reads pairs of vectors from tar shards: `sharded.py:SHARDS`."""

import io
import json
import tarfile

import numpy as np

from bigcl.data.sources.webdataset import WebDataset
from bigcl.registry import REGISTRIES
from tests.faults.halves import config

SHARDS, SAMPLES = 4, 64


class Pairs(WebDataset):
    """Of each sample the two arrays of its JSON."""

    def __init__(self, shards: str):
        super().__init__(shards, {"pair": ["json"]})

    def __getitem__(self, index):
        return {k: np.asarray(v, np.float32) for k, v in super().__getitem__(index)["pair"].items()}


REGISTRIES["source"]["pairs"] = "tests.faults.sharded:Pairs"


def write(folder):
    """The shards 0.tar to 3.tar; one vector of a pair is the other's first half."""
    folder.mkdir()
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard}.tar", "w") as file:
            for i in range(SAMPLES):
                a = np.random.default_rng([shard, i]).normal(size=6).round(3).tolist()
                content = json.dumps({"a": a, "b": a[:3]}).encode()
                member = tarfile.TarInfo(f"{i:04d}.json")
                member.size = len(content)
                file.addfile(member, io.BytesIO(content))


def get_config(arg):
    """Argument: the shards, as WebDataset takes them."""
    return config({"source": {"kind": "pairs", "shards": arg}}, steps=120)

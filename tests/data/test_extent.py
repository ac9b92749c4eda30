"""What tells all processes of a run that they read the same data: copies do, other files do not."""

import os
import types

import numpy as np
import pytest

from bigcl import registry
from bigcl.data.sources import source_extent, source_identity
from bigcl.data.sources.arrayrecord import write_arrayrecord
from bigcl.experiment import Experiment
from tests.data.test_webdataset import shard


def webdataset(folder, other):
    for i in range(3):
        numbers = range(10 * i, 10 * i + 10)
        if other == "moved" and i < 2:  # as many samples and bytes, but the boundary is elsewhere
            numbers = range(11) if i == 0 else range(11, 20)
        (folder / f"{i}{'x' * (other == 'named')}.tar").write_bytes(shard(numbers))
    return {"kind": "webdataset", "shards": str(folder)}


def arrayrecord(folder, other):
    write_arrayrecord(({"x": np.zeros(100 + i)} for i in range(30)), folder, per_shard=11 if other == "moved" else 10)
    for file in folder.iterdir() if other == "named" else ():
        file.rename(folder / f"x{file.name}")
    return {"kind": "arrayrecord", "paths": str(folder)}


def jsonl(folder, other):
    lines = [f'{{"text": "{"x" * (5 + i)}"}}\n' for i in range(30)]
    cut = 16 if other == "moved" else 15
    for name, part in (("a", lines[:cut]), ("b" + "x" * (other == "named"), lines[cut:])):
        (folder / f"{name}.jsonl").write_text("".join(part))
    return {"kind": "jsonl", "paths": str(folder)}


def identity(source):
    """What a run of this source compares; its first batch is the first ten examples."""
    loader = types.SimpleNamespace(size=len(source), indices=lambda step: np.arange(10))
    return Experiment.data_identity(types.SimpleNamespace(source=source, loader=loader))


@pytest.mark.parametrize("write", [webdataset, arrayrecord, jsonl])
def test_copies_are_the_same_and_other_files_are_not(tmp_path, write):
    """Three variants of thirty examples: other boundaries of shards, and other names. The copies are younger."""
    parts = {}
    for name in ("here", "copy", "moved", "named"):
        (tmp_path / name).mkdir()
        parts[name] = write(tmp_path / name, name)
        for file in (tmp_path / name).iterdir():
            os.utime(file, (0, len(name)) if name == "here" else None)
    sources = {name: registry.build("source", part) for name, part in parts.items()}
    assert {len(source) for source in sources.values()} == {30}
    assert source_extent(sources["copy"]) == source_extent(sources["here"])
    assert source_identity(sources["copy"]) != source_identity(sources["here"])
    around = {
        name: registry.build("source", {"kind": "mixture", "sources": {"a": {"kind": "noisy", "source": part}}})
        for name, part in parts.items()
    }
    for each in (sources, around):
        here, copy, named = (identity(each[name])["files"] for name in ("here", "copy", "named"))
        assert copy == here != named
    told = {name: [identity(source)[key] for key in ("files", "places")] for name, source in sources.items()}
    assert told["copy"] == told["here"] not in (told["moved"], told["named"])

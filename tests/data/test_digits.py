"""The digits that need no download."""

import numpy as np

from bigcl import registry


def test_digits():
    parts = {split: registry.build("source", {"kind": "digits", "split": split}) for split in ("train", "test", "all")}
    assert [len(parts[s]) for s in ("train", "test", "all")] == [1437, 360, 1797]
    example = parts["all"][5]
    assert example["image"].shape == (8, 8, 3) and example["image"].dtype == np.uint8
    assert parts["test"][1]["label"] == example["label"] and example["image"].max() == 255
    assert parts["test"].class_names("label")[example["label"]] == example["text"]
    assert parts["test"].class_names("text") is None

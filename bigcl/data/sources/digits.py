"""Handwritten digits of scikit-learn: 1,797 pictures of 8 x 8 pixels that need no download."""

import importlib
from typing import Literal

import numpy as np

from bigcl.data.sources import Example

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Digits:
    """The test set of the optical recognition of handwritten digits (Alpaydin and Kaynak 1998).

    An example: `{"image": uint8 [8, 8, 3], dark on white, "label": 0 to 9, "text": "seven"}`.

    split: "test" is every fifth example, "train" the rest, "all" both.
    """

    def __init__(self, split: Literal["train", "test", "all"] = "test"):
        try:
            datasets = importlib.import_module("sklearn.datasets")
        except ImportError as error:
            raise ImportError('the digits source needs scikit-learn: pip install "bigcl[evals]"') from error
        images, labels = datasets.load_digits(return_X_y=True)
        index = np.arange(len(labels))
        keep = {"train": index % 5 != 0, "test": index % 5 == 0, "all": index >= 0}[split]
        grey = np.rint(255 * (1 - images[keep].reshape(-1, 8, 8, 1) / 16)).astype(np.uint8)
        self.images, self.labels, self.name = np.repeat(grey, 3, axis=3), labels[keep], f"digits {split}"

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        label = int(self.labels[index])
        return {"image": self.images[index], "label": label, "text": NAMES[label]}

    def class_names(self, key: str) -> list[str] | None:
        """What the numbers at a key stand for."""
        return list(NAMES) if key == "label" else None

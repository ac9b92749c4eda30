"""Two sounds one after the other, and what says which came first."""

from typing import Literal

import numpy as np

from bigcl.data.sources import Example

CLASSES, BANDS, FRAMES = 10, 16, 4
BEFORE = CLASSES
"""The id of the word between the two names."""


class SoundPairs:
    """Clips of two sounds of different classes, "x before y", with the same sounds in reversed order (a synthetic form
    of TeminAL's composed clips, Sinha et al. 2024).

    Each of 10 classes has a mean spectrum, standard normal in 16 bands, which the seed decides. A sound is 4 frames of
    it, each with 0.7 standard normal noise of its own. In "train" the first class has the smaller number, as natural
    captions rarely hold both orders; in "test", with noise of its own, the order is random.

    An example: `{"audio": float32 [8, 16], "text": int32 [3], "audio_reversed": ..., "text_reversed": ...}`. A text is
    class, 10, class.
    """

    def __init__(self, split: Literal["train", "test"] = "train", size: int = 8_000, seed: int = 0):
        self.size, self.name = size, f"sound pairs of seed {seed}, {split}"
        classes, rng = (np.random.Generator(np.random.Philox(key=[seed, k])) for k in (0, 1 + (split == "test")))
        spectrum = classes.normal(size=(CLASSES, BANDS))
        first = rng.integers(0, CLASSES, size)
        second = (first + rng.integers(1, CLASSES, size)) % CLASSES
        pair = np.stack([first, second], 1)
        if split == "train":
            pair.sort(axis=1)
        sounds = spectrum[pair][:, :, None] + 0.7 * rng.normal(size=(size, 2, FRAMES, BANDS))
        self.arrays: dict[str, np.ndarray] = {}
        for suffix, order in {"": [0, 1], "_reversed": [1, 0]}.items():
            self.arrays[f"audio{suffix}"] = sounds[:, order].reshape(size, 2 * FRAMES, BANDS).astype(np.float32)
            words = np.insert(pair[:, order], 1, BEFORE, axis=1)
            self.arrays[f"text{suffix}"] = words.astype(np.int32)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Example:
        return {key: array[index] for key, array in self.arrays.items()}

"""Three bits of which each is the exclusive or of the others."""

import numpy as np

from bigcl.data.sources import Example


class Xor:
    """Fair bits a and b, and c = a XOR b: every pair is independent, the triple is not (Symile, Saporta et al. 2024).

    An example: `{"a": float32 [1], "b": float32 [1], "c": float32 [1]}`, each 0 or 1. Made anew from (seed, index).

    missing: None, or the probability that a bit is not known, independently of the others; each input then has two
        numbers, the bit and 0, or, where it is missing, 0.5 and 1.
    """

    def __init__(self, size: int = 10_000, seed: int = 0, missing: float | None = None):
        self.size, self.name = size, f"xor of seed {seed}"
        rng = np.random.Generator(np.random.Philox(key=seed))
        bits = rng.integers(0, 2, (size, 2))
        self.bits = np.concatenate([bits, bits.sum(1, keepdims=True) % 2], 1).astype(np.float32)[:, :, None]
        if missing is not None:
            lost = rng.random(self.bits.shape) < missing
            self.bits = np.concatenate([np.where(lost, 0.5, self.bits), lost], 2).astype(np.float32)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Example:
        a, b, c = self.bits[index]
        return {"a": a, "b": b, "c": c}

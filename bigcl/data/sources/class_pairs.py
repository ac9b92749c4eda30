"""Pairs of features that share nothing but a class."""

import math

import numpy as np

from bigcl.data.sources import Example


class ClassPairs:
    r"""Features of a modality that is known well, `locked`, and of another, `query`, of the same class (for CWCL,
    Srinivasa et al. 2023).

    The class y of each example is drawn evenly. With n standard normal,

    $$\mathrm{locked} = \mu_y + \tfrac{\mathrm{noise}}{\sqrt{16}}\, n \in \mathbb{R}^{16}, \quad
    \mathrm{query} = V_y + n' \in \mathbb{R}^{32}, \quad V \sim \tfrac{3}{\sqrt{32}}\, \mathcal{N}(0, I).$$

    The means $\mu$ are the first `classes` columns of a random orthonormal basis, less their mean, of length 1; the two
    of two classes are opposite.

    An example: `{"locked": float32 [16], "query": float32 [32], "label": 0 to classes - 1}`.

    noise: of the locked modality; 0: its class means themselves.
    seed: of the classes.  draw: of the examples; other draws of a seed are fresh examples of the same classes.
    """

    def __init__(self, size: int = 200, classes: int = 2, noise: float = 0.3, seed: int = 0, draw: int = 0):
        self.size, self.name = size, f"class pairs of seed {seed}, draw {draw}"
        rng = np.random.default_rng([seed, 0])
        basis = np.linalg.qr(rng.standard_normal((16, 16)))[0][:, :classes].T
        means = basis - basis.mean(0)
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        centres = 3 / math.sqrt(32) * rng.standard_normal((classes, 32))
        rng = np.random.default_rng([seed, 1, draw])
        self.labels = rng.integers(classes, size=size)
        locked = means[self.labels] + noise / math.sqrt(16) * rng.standard_normal((size, 16))
        query = centres[self.labels] + rng.standard_normal((size, 32))
        self.locked, self.query = locked.astype(np.float32), query.astype(np.float32)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Example:
        return {"locked": self.locked[index], "query": self.query[index], "label": int(self.labels[index])}

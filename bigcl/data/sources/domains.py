"""Pairs of two modalities in one domain or another, for learning one after the other."""

from typing import Literal

import numpy as np

from bigcl.data.sources import Example

LATENT, WIDTH, FIXED = 16, 48, slice(10, 16)


class Domains:
    r"""Two noisy views of a hidden vector, of which a narrow domain leaves a part out (after Mod-X, Ni et al. 2023).

    With $z \sim \mathcal{N}(0, I_{16})$, of which the domain "narrow" has the last 6 entries at 1.5, and n standard
    normal,

    $$\mathrm{image} = \tanh(z\, W_I) + 0.3\, n, \quad \mathrm{text} = \tanh(z\, W_T) + 0.3\, n', \quad
    W_I, W_T \sim \tfrac14\, \mathcal{N}(0, 1)^{16 \times 48}.$$

    An example: `{"image": float32 [48], "text": float32 [48]}`.

    seed: of W, the same for both domains.  draw: of the examples; other draws of a seed are fresh pairs.
    """

    def __init__(self, size: int, domain: Literal["whole", "narrow"] = "whole", seed: int = 0, draw: int = 0):
        self.size, self.name = size, f"{domain} domain of seed {seed}, draw {draw}"
        maps = np.random.default_rng([seed, 0]).standard_normal((2, LATENT, WIDTH)) / 4
        rng = np.random.default_rng([seed, 1 + (domain == "narrow"), draw])
        z = rng.standard_normal((size, LATENT))
        if domain == "narrow":
            z[:, FIXED] = 1.5
        views = np.tanh(z @ maps) + 0.3 * rng.standard_normal((2, size, WIDTH))
        self.image, self.text = views.astype(np.float32)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Example:
        return {"image": self.image[index], "text": self.text[index]}

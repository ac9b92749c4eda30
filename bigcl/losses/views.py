"""Contrast of several views at once."""

import itertools
from typing import Literal

from jaxtyping import Array, Float

from bigcl.losses.infonce import infonce


def views_infonce(
    za: Float[Array, "b d"],
    zb: Float[Array, "b d"],
    scale: Float[Array, ""],
    *,
    local_a: Float[Array, "v b e"],
    local_b: Float[Array, "w b e"],
    local_scale: Float[Array, ""],
    label_smoothing: float = 0.0,
    direction: Literal["both", "sum", "a_to_b", "b_to_a"] = "both",
) -> Float[Array, ""]:
    r"""InfoNCE of a global pair and of local, strongly augmented views (CL2L; Fini et al. 2023, "Improved baselines for
    vision-language pre-training").

    $$L = \frac{1}{1 + V} \Big[ L(A, B) + V \operatorname{mean}_{v, w} L(A_v, B_w) \Big].$$

    za, zb: embeddings of the global views.  local_a, local_b: V local views of each, of a projection of their own. All
    L2-normalised.  scale, local_scale: the inverse temperature of each.
    label_smoothing: of the local terms alone.  direction: as for `infonce`.
    """
    if len(local_a) != len(local_b):
        raise ValueError(f"views_infonce: expected as many views of both sides, got {len(local_a)} and {len(local_b)}")
    whole, count = infonce(za, zb, scale, direction=direction), len(local_a)
    if not count:
        return whole
    local = [
        infonce(a, b, local_scale, label_smoothing=label_smoothing, direction=direction)
        for a, b in itertools.product(local_a, local_b)
    ]
    return (whole + sum(local[1:], local[0]) / count) / (1 + count)

"""Contrast of several views at once."""

import itertools
from typing import Literal

from jaxtyping import Array, Float

from bigcl.losses.infonce import infonce


def views_infonce(
    *z: Float[Array, "b _"],
    scale: Float[Array, ""],
    local_scale: Float[Array, ""],
    label_smoothing: float = 0.0,
    direction: Literal["both", "sum", "a_to_b", "b_to_a"] = "both",
) -> Float[Array, ""]:
    r"""InfoNCE of a global pair and of local, strongly augmented views (CL2L; Fini et al. 2023, "Improved baselines for
    vision-language pre-training").

    $$L = \frac{1}{1 + V} \Big[ L(A, B) + V \operatorname{mean}_{v, w} L(A_v, B_w) \Big].$$

    z: embeddings of the two global views [B, D], then of V local views of the first side, then of V of the second
        [B, E], of a projection of their own. All L2-normalised.
    scale, local_scale: the inverse temperature of each; in a config, `"with": {"local_scale": NAME}`, one of the task's
        `scales`.
    label_smoothing: of the local terms alone.  direction: as for `infonce`.
    """
    count, odd = divmod(len(z) - 2, 2)
    if odd or count < 0:
        raise ValueError(f"views_infonce: expected a pair, and as many local views of both sides, got {len(z)} arrays")
    za, zb, *views = z
    whole = infonce(za, zb, scale, direction=direction)
    if not count:
        return whole
    local = [
        infonce(a, b, local_scale, label_smoothing=label_smoothing, direction=direction)
        for a, b in itertools.product(views[:count], views[count:])
    ]
    return (whole + sum(local[1:], local[0]) / count) / (1 + count)

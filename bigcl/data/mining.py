"""Pairs of examples that two models disagree about."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int64
from tqdm import tqdm

from bigcl.losses.similarity import l2_normalize


def blind_pairs(
    alike: Float[Array, "n d"] | Float[np.ndarray, "n d"],
    different: Float[Array, "n e"] | Float[np.ndarray, "n e"],
    *,
    above: float = 0.95,
    below: float = 0.6,
    chunk: int = 4096,
) -> Int64[np.ndarray, "p 2"]:
    """All pairs i < j whose cosine is above a threshold in one model and below another in the second, in order.

    CLIP-blind pairs (Tong et al. 2024): images that CLIP takes for the same and a vision-only model does not, with
    cosines above 0.95 and below 0.6.

    alike, different: embeddings of the two models, row i of both of the same example; normalised here.
    chunk: rows and columns that are compared at once.
    """
    if len(alike) != len(different):
        raise ValueError(f"blind_pairs: row i of both must be the same example, got {len(alike)} and {len(different)}")
    sides = [np.asarray(l2_normalize(jnp.asarray(x))) for x in (alike, different)]
    starts = range(0, len(alike), chunk)
    found = [np.zeros((0, 2), np.int64)]
    for i in tqdm(starts, desc="pairs", disable=None if len(starts) > 1 else True):
        row: list[np.ndarray] = []
        for j in range(i, len(alike), chunk):
            hits = np.argwhere(
                np.asarray(disagree(*((x[i : i + chunk], x[j : j + chunk]) for x in sides), above, below))
            )
            row.append(hits[hits[:, 0] + i < hits[:, 1] + j] + [i, j])
        block = np.concatenate(row)
        found.append(block[np.lexsort((block[:, 1], block[:, 0]))])
    return np.concatenate(found)


@functools.partial(jax.jit, static_argnames=("above", "below"))
def disagree(
    alike: tuple[Array, Array], different: tuple[Array, Array], above: float, below: float
) -> Bool[Array, "m n"]:
    """Which of the pairs of some rows with some others are alike for one model and different for the other."""
    near, far = (jnp.einsum("md,nd->mn", *x, precision=jax.lax.Precision.HIGHEST) for x in (alike, different))
    return (near > above) & (far < below)

"""Symile: `Symile`, `MIPSimilarity`, and the baseline of losses in pairs."""

import itertools
from collections.abc import Mapping

from jax import Array

from bigcl.losses import infonce
from bigcl.losses.multilinear import multilinear, multilinear_scores, pairwise_scores
from tests.goldens.harness import ignores


def numbered(inputs: Mapping[str, Array], prefix: str) -> list[Array]:
    """The inputs `prefix0`, `prefix1`, ..."""
    return [inputs[f"{prefix}{i}"] for i in range(len(inputs)) if f"{prefix}{i}" in inputs]


@ignores("modalities")
def symile_loss_n(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Shuffled negatives."""
    z = numbered(inputs, "r")
    return {"loss": multilinear(*z, scale=inputs["logit_scale_exp"], permutations=inputs["perms"])}


@ignores("modalities")
def symile_loss_n_squared(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """All combinations as negatives."""
    return {"loss": multilinear(*numbered(inputs, "r"), scale=inputs["logit_scale_exp"], negatives="all")}


@ignores("query_modalities")
def mip_similarity(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Retrieval by the multilinear inner product."""
    return {"scores": multilinear_scores(*numbered(inputs, "q"), candidates=inputs["candidates"])}


@ignores()
def pairwise_clip(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The sum of the losses of all pairs; candidates are of modality 0."""
    z, scale = numbered(inputs, "r"), inputs["logit_scale_exp"]
    return {
        "loss": sum(infonce(a, b, scale) for a, b in itertools.combinations(z, 2)),
        "retrieval_logits": scale * pairwise_scores(*z[1:], candidates=inputs["candidates"]),
    }


FUNCTIONS = {
    "symile_loss_n": symile_loss_n,
    "symile_loss_n_squared": symile_loss_n_squared,
    "mip_similarity": mip_similarity,
    "pairwise_clip": pairwise_clip,
}

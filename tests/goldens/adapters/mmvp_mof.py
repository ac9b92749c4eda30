"""MMVP and mixture of features: mining, the paired score, and the two ways to mix tokens."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from scipy.special import softmax

from bigcl.data.mining import blind_pairs
from bigcl.evals.metrics import mean, per_group
from bigcl.evals.pairs import judge
from bigcl.losses import l2_normalize
from bigcl.towers.features import MixtureOfFeatures
from tests.goldens.harness import ignores


@ignores()
def clip_blind_pairs(inputs: Mapping[str, Array], *, clip_min: float = 0.95, ssl_max: float = 0.6) -> dict[str, Array]:
    """Pairs that CLIP takes for the same."""
    return {"pairs": jnp.asarray(blind_pairs(inputs["clip"], inputs["ssl"], above=clip_min, below=ssl_max))}


@ignores()
def mmvp_vlm_pair_accuracy(inputs: Mapping[str, Array], *, logit_scale: float) -> dict[str, Array]:
    """Both statements of a pair must choose their own image: the first if its probability is above a half, else the
    second."""
    image, text = (np.asarray(l2_normalize(inputs[k])) for k in ("image", "text"))
    first = softmax(logit_scale * np.einsum("pid,ptd->pit", image, text), 1)[:, 0]
    right = judge(np.stack([first, np.full_like(first, 0.5)], 1), ties="last", tie=0.0)["image_score"]
    pattern = np.asarray(inputs["pattern"])
    scores = per_group(pattern.tolist(), lambda members: {"accuracy": mean(right[members])})
    return {
        "pair_correct": jnp.asarray(right),
        "per_pattern": jnp.asarray([100 * scores[f"{p}/accuracy"] for p in np.unique(pattern)]),
    }


def mixture(maps: Sequence[tuple[Array, Array]], **options: str | float) -> MixtureOfFeatures:
    """With the stored weights."""
    kernels = [kernel for kernel, _ in maps]
    inputs = [len(k) for k in kernels] * (2 if options["mode"] == "additive" else 1)
    width, dtype = kernels[0].shape[1], kernels[0].dtype
    module = nnx.eval_shape(lambda: MixtureOfFeatures(inputs, width, dtype=dtype, rngs=nnx.Rngs(0), **options))
    for layer, (kernel, bias) in zip(module.maps, maps, strict=True):
        layer.kernel, layer.bias = nnx.Param(kernel), nnx.Param(bias)
    return module


@ignores()
def additive_mof(inputs: Mapping[str, Array], *, alpha: float) -> dict[str, Array]:
    """A convex combination, then one map."""
    module = mixture([(inputs["W"], inputs["b"])], mode="additive", alpha=float(alpha))
    return {"out": module(inputs["clip"], inputs["dino"])}


@ignores()
def interleaved_mof(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """A map each, then tokens in turn."""
    module = mixture([(inputs["Wc"], inputs["bc"]), (inputs["Wd"], inputs["bd"])], mode="interleaved")
    return {"out": module(inputs["clip"], inputs["dino"])}


FUNCTIONS = {
    "clip_blind_pairs": clip_blind_pairs,
    "mmvp_vlm_pair_accuracy": mmvp_vlm_pair_accuracy,
    "additive_mof": additive_mof,
    "interleaved_mof": interleaved_mof,
}

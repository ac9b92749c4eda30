"""FDT: sparsemax, and CLIP on features that are mixtures of codes."""

from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from bigcl.losses import infonce, l2_normalize
from bigcl.towers.codebook import Codebook, QueryMap, sparsemax
from tests.goldens.harness import ignores

PLACES = {
    "ln1_g": ("norm1", "scale"),
    "ln1_b": ("norm1", "bias"),
    "w1": ("up", "kernel"),
    "b1": ("up", "bias"),
    "ln2_g": ("norm2", "scale"),
    "ln2_b": ("norm2", "bias"),
    "w2": ("down", "kernel"),
    "b2": ("down", "bias"),
}


@ignores()
def simplex(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Sparsemax of rows."""
    p = sparsemax(inputs["z"])
    return {"p": p, "loss": (p * inputs["cotangent"]).sum()}


def query_map(inputs: Mapping[str, Array], prefix: str) -> QueryMap:
    """With the stored weights."""
    sizes = inputs[f"{prefix}_w1"].shape
    module = nnx.eval_shape(lambda: QueryMap(*sizes, dtype=inputs[f"{prefix}_w1"].dtype, rngs=nnx.Rngs(0)))
    for name, (layer, parameter) in PLACES.items():
        setattr(getattr(module, layer), parameter, nnx.Param(inputs[f"{prefix}_{name}"]))
    return module


@ignores()
def fdt_clip_loss(
    inputs: Mapping[str, Array],
    *,
    sd_temperature: float = 1.0,
    pool_type: Literal["max", "mean", "sum"] = "max",
    att_func_type: Literal["sparsemax", "softmax", "sigmoid"] = "sparsemax",
) -> dict[str, Array]:
    """Patches and tokens with one codebook. The scale is clamped in its value alone."""
    sizes = inputs["fdt"].shape
    options = {"temperature": sd_temperature, "pool": pool_type, "attention": att_func_type}
    codebook = nnx.eval_shape(lambda: Codebook(*sizes, **options, rngs=nnx.Rngs(0)))
    codebook.codes = nnx.Param(inputs["fdt"])
    image = codebook.weights(query_map(inputs, "img")(inputs["patches"]))
    text = codebook.weights(query_map(inputs, "txt")(inputs["tokens"]), inputs["token_mask"])
    zi, zt = (l2_normalize(codebook.mixture(weights)) for weights in (image, text))
    scale = jnp.exp(inputs["log_logit_scale"])
    scale = scale - jax.lax.stop_gradient(jnp.maximum(scale - 100, 0))
    return {
        "loss": infonce(zi, zt, scale),
        "img_attention": image,
        "txt_attention": text,
        "img_fdt_feature": zi,
        "txt_fdt_feature": zt,
    }


FUNCTIONS = {"sparsemax": simplex, "fdt_clip_loss": fdt_clip_loss}

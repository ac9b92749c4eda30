"""Compiled towers as StableHLO, which JAX of later versions, and whatever else reads it, runs without bigcl."""

import functools
import importlib.util
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Shaped

from bigcl.interop import files
from bigcl.interop.card import write_description
from bigcl.interop.model import Inexpressible, Model, build, encoded, expect_one_scale
from bigcl.state import Arrays, Skeleton

PLATFORMS = ("cpu", "cuda", "tpu")


def export(model: Model, out: pathlib.Path) -> None:
    """Writes `<input>.stablehlo`, a function of the arrays of `model.safetensors` and of any number of inputs.

    Inputs are uint8 pixels `[b, h, w, 3]` and int32 token ids `[b, n]`; outputs are embeddings `[b, d]`. Of image and
    text with one temperature also `logits.stablehlo`, of arrays and embeddings `[n, d]`, `[m, d]` to logits `[n, m]`.
    The programs say that their products are float32, which accelerators do not compute by default.
    """
    if importlib.util.find_spec("flatbuffers") is None:
        raise ImportError('--to jax: JAX writes StableHLO by flatbuffers: pip install "bigcl[export]"')
    skeleton, towers, width = build(model.task)[1], inputs(model), {}
    for name, (shape, dtype) in towers.items():
        x = jax.ShapeDtypeStruct((*jax.export.symbolic_shape("b"), *shape), dtype)
        width[name] = compiled(functools.partial(encode, skeleton, name), model, out / name, x)[-1]
    if {"image", "text"} <= set(towers):
        try:
            expect_one_scale(model.task, "logits.stablehlo")
            rows = zip(jax.export.symbolic_shape("n, m"), ("image", "text"), strict=True)
            compiled(
                logits, model, out / "logits", *(jax.ShapeDtypeStruct((n, width[k]), jnp.float32) for n, k in rows)
            )
        except Inexpressible as error:
            print(f"{out}: no logits: {error}")
    files.write_safetensors(dict(model.arrays), out / "model.safetensors")
    write_description(model, out)


def encode(skeleton: Skeleton, name: str, arrays: Arrays, x: Shaped[Array, "b ..."]) -> Float32[Array, "b d"]:
    """The embeddings of one input."""
    return encoded(skeleton, arrays, {name: x})[name]


def logits(arrays: Arrays, image: Float32[Array, "n d"], text: Float32[Array, "m d"]) -> Float32[Array, "n m"]:
    """Those of the task's losses."""
    cosines = jnp.dot(image, text.T, precision="highest")
    return jnp.exp(arrays["log_scale"]) * cosines + arrays.get("bias", jnp.float32(0))


def compiled(function: Callable[..., Any], model: Model, path: pathlib.Path, *x: Any) -> tuple[Any, ...]:
    """Writes a function of the model's arrays and of inputs like `x` for all platforms. Returns the shape of its
    output."""
    arrays = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in model.arrays.items()}
    exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(arrays, *x)
    path.with_suffix(".stablehlo").write_bytes(exported.serialize())
    return exported.out_avals[0].shape


def inputs(model: Model) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Shape of one example and dtype of each input."""
    found: dict[str, tuple[tuple[int, ...], Any]] = {}
    if "image" in model.task["towers"]:
        tower = model.tower("image", "resnet")
        if tower.get("naflex"):
            raise Inexpressible("task.towers.image.naflex = True: a compiled tower has one input of one shape")
        size = tower["image_size"]
        found["image"] = ((size, size, 3), jnp.uint8)
    if "text" in model.task["towers"]:
        found["text"] = ((model.tower("text")["length"],), jnp.int32)
    return found

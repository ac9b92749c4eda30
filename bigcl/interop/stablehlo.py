"""Compiled towers as StableHLO, which JAX of later versions, and whatever else reads it, runs without bigcl."""

import importlib.util
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from bigcl.interop import files
from bigcl.interop.card import write_description
from bigcl.interop.model import Inexpressible, Model, build

PLATFORMS = ("cpu", "cuda", "tpu")


def export(model: Model, out: pathlib.Path) -> None:
    """Writes `<input>.stablehlo`, a function of the arrays of `model.safetensors` and of any number of inputs.

    Inputs are uint8 pixels `[b, h, w, 3]` and int32 token ids `[b, n]`; outputs are normalised embeddings `[b, d]`.
    """
    if importlib.util.find_spec("flatbuffers") is None:
        raise ImportError('--to jax: JAX writes StableHLO by flatbuffers: pip install "bigcl[export]"')
    _, skeleton, _ = build(model.task)
    shapes = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in model.arrays.items()}
    rows = jax.export.symbolic_shape("b")
    for name, (shape, dtype) in inputs(model).items():

        def encode(arrays: dict[str, jax.Array], x: jax.Array, name: str = name) -> jax.Array:
            return skeleton.merge(arrays, {}).encode({name: x})[name]

        x = jax.ShapeDtypeStruct((*rows, *shape), dtype)
        exported = jax.export.export(jax.jit(encode), platforms=PLATFORMS)(shapes, x)
        (out / f"{name}.stablehlo").write_bytes(exported.serialize())
    files.write_safetensors(dict(model.arrays), out / "model.safetensors")
    write_description(model, out)


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

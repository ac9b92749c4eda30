"""big_vision's npz checkpoints of two-tower models (SigLIP, LiT's pairs of ViT and text transformer)."""

import math
import pathlib
from typing import Any

import numpy as np

from bigcl.interop import files
from bigcl.interop.model import Inexpressible, Model, blank
from bigcl.interop.presets import PRESETS, tokenizer_of
from bigcl.interop.table import K, Q, Row, Table, V, batched, read, same, under


def patches(x: np.ndarray) -> np.ndarray:
    """`[patch * patch * 3, out]` as `[patch, patch, 3, out]`."""
    side = math.isqrt(len(x) // 3)
    return x.reshape(side, side, 3, -1)


def norm(name: str, path: str) -> Table:
    """A layer norm."""
    return Row(f"{name}/scale", f"{path}/scale"), Row(f"{name}/bias", f"{path}/bias")


def linear(name: str, path: str) -> Table:
    """A dense layer; kernels have the order of bigcl's."""
    return Row(f"{name}/kernel", f"{path}/kernel"), Row(f"{name}/bias", f"{path}/bias")


def attention(name: str, path: str) -> Table:
    """Flax's attention: queries, keys and values apart."""
    parts = (("query", Q), ("key", K), ("value", V))
    kernels = tuple(Row(f"{name}/{n}/kernel", f"{path}/qkv", same, part) for n, part in parts)
    biases = tuple(Row(f"{name}/{n}/bias", f"{path}/qkv_bias", same, part) for n, part in parts)
    return (*kernels, *biases, Row(f"{name}/out/kernel", f"{path}/out"), Row(f"{name}/out/bias", f"{path}/out_bias"))


BLOCK: Table = (
    *norm("LayerNorm_0", "norm1"),
    *attention("MultiHeadDotProductAttention_0", "attention"),
    *norm("LayerNorm_1", "norm2"),
    *linear("MlpBlock_0/Dense_0", "mlp/up"),
    *linear("MlpBlock_0/Dense_1", "mlp/down"),
)

IMAGE: Table = (
    Row("cls", "cls", batched),
    Row("embedding/kernel", "embed/kernel", patches),
    Row("embedding/bias", "embed/bias"),
    Row("pos_embedding", "position", batched),
    *under("Transformer/encoderblock_*/", "stack/blocks/", BLOCK),
    *norm("Transformer/encoder_norm", "norm"),
    Row("MAPHead_0/probe", "map/probe"),
    *attention("MAPHead_0/MultiHeadDotProductAttention_0", "map/attention"),
    *norm("MAPHead_0/LayerNorm_0", "map/norm"),
    *linear("MAPHead_0/MlpBlock_0/Dense_0", "map/mlp/up"),
    *linear("MAPHead_0/MlpBlock_0/Dense_1", "map/mlp/down"),
    Row("head/kernel", "projection/kernel"),
)

TEXT: Table = (
    Row("Embed_0/embedding", "embed"),
    Row("pos_embedding", "position", batched),
    *under("Encoder_0/encoderblock_*/", "stack/blocks/", BLOCK),
    *norm("Encoder_0/encoder_norm", "norm"),
    *linear("head", "projection"),
)

SCALARS: Table = (Row("t", "log_scale", lambda x: x.reshape(1)), Row("b", "bias", lambda x: x.reshape(1)))

TABLE: Table = (*under("img/", "towers/image/", IMAGE), *under("txt/", "towers/text/", TEXT), *SCALARS)


def layerwise(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One tensor for each layer, also where a scanned model has them stacked."""
    result: dict[str, np.ndarray] = {}
    for name, value in tensors.items():
        if "/encoderblock/" in name:
            result |= {name.replace("/encoderblock/", f"/encoderblock_{i}/"): v for i, v in enumerate(value)}
        else:
            result[name] = value
    return result


def block_sizes(tensors: dict[str, np.ndarray], prefix: str) -> dict[str, Any]:
    """Width, depth, heads and MLP width of a stack of blocks."""
    first = f"{prefix}encoderblock_0/"
    try:
        width, heads, _ = tensors[f"{first}MultiHeadDotProductAttention_0/query/kernel"].shape
        mlp_width = tensors[f"{first}MlpBlock_0/Dense_0/kernel"].shape[1]
    except (KeyError, ValueError) as error:
        raise files.BadFile(f"no transformer under {prefix!r}: expected {first}... as big_vision names it") from error
    layers = {name[len(prefix) :].split("/")[0] for name in tensors if name.startswith(f"{prefix}encoderblock_")}
    return {"width": width, "depth": len(layers), "heads": heads, "mlp_width": mlp_width}


def towers_of(tensors: dict[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The image and the text tower, read off the shapes of the tensors."""
    shape = tensors["img/embedding/kernel"].shape
    if len(shape) == 2:
        raise Inexpressible(
            f"img/embedding/kernel {shape}: expected (patch, patch, 3, width); NaFlex, whose patches are vectors, "
            "arrives by --from transformers"
        )
    patch, _, _, width = shape
    cls = "img/cls" in tensors
    image = {
        "kind": "vit",
        "image_size": patch * math.isqrt(tensors["img/pos_embedding"].shape[1] - cls),
        "patch": patch,
        "pool": "map" if "img/MAPHead_0/probe" in tensors else "cls" if cls else "mean",
        "activation": "gelu_tanh",
        "norm_eps": 1e-6,
        **block_sizes(tensors, "img/Transformer/"),
    }
    if "img/head/kernel" in tensors:
        image["embed_dim"] = tensors["img/head/kernel"].shape[1]
    text = {
        "kind": "text",
        "vocab": tensors["txt/Embed_0/embedding"].shape[0],
        "length": tensors["txt/pos_embedding"].shape[1],
        "causal": False,
        "pool": "last",
        "activation": "gelu_tanh",
        "norm_eps": 1e-6,
        "embed_dim": tensors["txt/head/kernel"].shape[1] if "txt/head/kernel" in tensors else width,
        "projection_bias": "txt/head/bias" in tensors,
        **block_sizes(tensors, "txt/Encoder_0/"),
    }
    return image, text


def load(path: pathlib.Path) -> Model:
    """An npz file of a two-tower model: `params/img/...`, `params/txt/...`, `params/t`, and `params/b` of SigLIP.

    The file says nothing of the tokenizer (SigLIP: c4_en or gemma, SentencePiece) nor of the activation, which in
    big_vision is always the tanh form of GELU.
    """
    weights = files.find_weights(path)
    tensors = files.read_tensors(weights)
    tensors = layerwise({k.removeprefix("params/"): v for k, v in tensors.items() if not k.startswith("opt/")})
    if "img/embedding/kernel" not in tensors or "txt/Embed_0/embedding" not in tensors:
        raise Inexpressible(f"{path}: no img/embedding and txt/Embed_0: not a two-tower model of big_vision")
    with files.expecting(weights):
        image, text = towers_of(tensors)
        for name in ("t", "b"):
            if name in tensors:
                tensors[name] = tensors[name].reshape(1)
        if not tensors.get("img/head/bias", np.ones(1)).any():
            del tensors["img/head/bias"]
    loss = "sigmoid" if "b" in tensors else "infonce"
    towers = {"image": image, "text": text}
    task, shapes = blank({"kind": "two_tower", "towers": towers, "losses": [{"kind": loss, "of": list(towers)}]})
    arrays = read(TABLE, tensors, shapes, where=str(weights))
    preset = PRESETS["siglip2" if text["vocab"] in PRESETS["siglip2"].vocab else "siglip"]
    preprocessing = preset.preprocessing(image["image_size"])
    return Model(task, arrays, tokenizer_of(preset, text["vocab"]), preprocessing)

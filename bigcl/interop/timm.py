"""timm's vision transformers, which are also the image towers of open_clip's SigLIP and, wrapped, in transformers."""

import functools
import importlib.util
import math
import pathlib
import re
from typing import Any

import numpy as np

from bigcl.interop import files, schema
from bigcl.interop.model import Inexpressible, Model, Preprocessing, blank, expect, initial
from bigcl.interop.presets import PRESETS
from bigcl.interop.table import (
    KV,
    Q,
    Row,
    Table,
    batched,
    convolution,
    from_heads,
    into_heads,
    linear,
    norm,
    read,
    under,
    write,
)

BLOCK: Table = (
    *norm("norm1", "norm1"),
    *into_heads("attn.qkv", "attention"),
    *from_heads("attn.proj", "attention"),
    *norm("norm2", "norm2"),
    *linear("mlp.fc1", "mlp/up"),
    *linear("mlp.fc2", "mlp/down"),
)

TRUNK: Table = (
    Row("cls_token", "cls", batched),
    Row("reg_token", "registers", batched),
    Row("patch_embed.proj.weight", "embed/kernel", convolution),
    Row("patch_embed.proj.bias", "embed/bias"),
    Row("pos_embed", "position", batched),
    *norm("norm_pre", "pre_norm"),
    *under("blocks.*.", "stack/blocks/", BLOCK),
    *norm("norm", "norm"),
    Row("attn_pool.latent", "map/probe"),
    *into_heads("attn_pool.q", "map/attention", Q),
    *into_heads("attn_pool.kv", "map/attention", KV),
    *from_heads("attn_pool.proj", "map/attention"),
    *norm("attn_pool.norm", "map/norm"),
    *linear("attn_pool.mlp.fc1", "map/mlp/up"),
    *linear("attn_pool.mlp.fc2", "map/mlp/down"),
)

VIT: Table = under("", "towers/image/", (*TRUNK, *linear("head", "projection")))

POOLS = {"cls": "token", "mean": "avg", "map": "map"}
ARGUMENTS_SCHEMA = {
    "global_pool": schema.one_of(*POOLS.values()),
    "act_layer": schema.one_of("gelu", "gelu_tanh", "quick_gelu", "relu", "silu"),
    "num_heads": schema.HEADS,
}
DATA_SCHEMA = {
    "input_size": schema.Kind(
        "a list of channels, height and width",
        lambda x: isinstance(x, list) and len(x) == 3 and all(map(schema.PIXELS.fits, x)),
    ),
    "mean": schema.MEAN,
    "std": schema.STD,
    "crop_mode": schema.nullable(schema.WORD),
    "crop_pct": schema.nullable(schema.RATIO),
    "interpolation": schema.one_of("bicubic", "bilinear", "lanczos"),
}
SCHEMA = {
    "architecture": schema.needed(schema.WORD),
    "global_pool": schema.WORD,
    "model_args": schema.Maybe(ARGUMENTS_SCHEMA),
    "pretrained_cfg": schema.Maybe(DATA_SCHEMA),
}
ARCHITECTURES = {1e-6: "vit_base_patch16_224", 1e-5: "vit_base_patch16_clip_224"}
"""Any size is one of these with other arguments; they differ in the epsilon of their norms, which is no argument."""


HEADS = {192: 3, 256: 4, 320: 5, 384: 6, 512: 8, 640: 10, 768: 12, 832: 13, 896: 14, 1024: 16, 1152: 16, 1280: 16}
HEADS |= {1408: 16, 1536: 16, 1664: 16, 1792: 16}
"""Of the published vision transformers by their width: 64 wide up to ViT-L, and then 16, be they timm's, open_clip's or
SigLIP's."""
UNUSUAL = {"vit_base_patch16_gap_224": 16, "vit_giant_patch16_radio_v3": 24}
"""Architectures of timm that have others."""


def arguments(tower: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Architecture and arguments of `timm.create_model` for a tower without its projection. Raises Inexpressible."""
    expect(
        tower, "task.towers.image", "timm", pool=POOLS, activation=("gelu", "gelu_tanh", "quick_gelu", "relu", "silu"),
        registers=range(1_000), pre_norm=(False, True), patch_bias=(False, True), trim=(False, True),
    )  # fmt: skip
    if tower["norm_eps"] not in ARCHITECTURES:
        raise Inexpressible(f"task.towers.image.norm_eps = {tower['norm_eps']}: timm knows {list(ARCHITECTURES)} only")
    return ARCHITECTURES[tower["norm_eps"]], {
        "img_size": tower["image_size"],
        "patch_size": tower["patch"],
        "embed_dim": tower["width"],
        "depth": tower["depth"],
        "num_heads": tower["heads"],
        "mlp_ratio": ratio(tower),
        "class_token": tower["pool"] == "cls",
        "reg_tokens": tower["registers"],
        "global_pool": POOLS[tower["pool"]],
        "fc_norm": False,
        "pre_norm": tower["pre_norm"],
        "act_layer": tower["activation"],
    }


def ratio(tower: dict[str, Any]) -> float:
    """MLP width over width, so that its product with the width is rounded down to the MLP width."""
    exact = tower["mlp_width"] / tower["width"]
    return exact if int(tower["width"] * exact) == tower["mlp_width"] else (tower["mlp_width"] + 0.5) / tower["width"]


def trunk_form(arrays: dict[str, np.ndarray], tower: dict[str, Any]) -> dict[str, np.ndarray]:
    """The same function with the arrays that timm's form of the tower has.

    There a patch bias goes with the absence of the norm before the blocks, and registers have positions.
    """
    arrays = dict(arrays)
    path = "towers/image"
    if tower["pre_norm"] and tower["patch_bias"]:
        arrays = without_patch_bias(arrays, tower)
    elif not tower["pre_norm"] and not tower["patch_bias"]:
        arrays[f"{path}/embed/bias"] = np.zeros(tower["width"], np.float32)
    if tower["registers"]:
        position, front = arrays[f"{path}/position"], int(tower["pool"] == "cls")
        zeros = np.zeros((tower["registers"], tower["width"]), np.float32)
        arrays[f"{path}/position"] = np.concatenate([position[:front], zeros, position[front:]])
    return arrays


def without_patch_bias(arrays: dict[str, np.ndarray], tower: dict[str, Any]) -> dict[str, np.ndarray]:
    """The bias of the patches added to their positions, where it acts just so."""
    arrays = dict(arrays)
    position = arrays["towers/image/position"].copy()
    position[int(tower["pool"] == "cls") :] += arrays.pop("towers/image/embed/bias")
    return {**arrays, "towers/image/position": position}


def export(model: Model, out: pathlib.Path) -> None:
    """Writes the image tower for `timm.create_model("local-dir:OUT", pretrained=True)`.

    Its output is the embedding before normalisation: the projection is the classifier's head, whose bias is zero.
    """
    tower = model.tower("image")
    architecture, args = arguments(tower)
    arrays = {k: v for k, v in trunk_form(model.arrays, tower).items() if k.startswith("towers/image/")}
    classes = tower["embed_dim"] or 0
    if classes:
        arrays["towers/image/projection/bias"] = np.zeros(classes, np.float32)
    files.write_safetensors(write(VIT, arrays), out / "model.safetensors")
    assert model.preprocessing is not None
    config = {
        "architecture": architecture,
        "num_classes": classes,
        "num_features": tower["width"],
        "global_pool": args["global_pool"],
        "model_args": args,
        "pretrained_cfg": {**data_config(model.preprocessing), "num_classes": classes},
    }
    files.write_json(config, out / "config.json")


def data_config(preprocessing: Preprocessing) -> dict[str, Any]:
    """Preprocessing in timm's words."""
    return {
        "input_size": [3, preprocessing.size, preprocessing.size],
        "fixed_input_size": True,
        "interpolation": preprocessing.method,
        "crop_pct": crop_share(preprocessing),
        "crop_mode": "center" if preprocessing.mode == "shortest" else "squash",
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
    }


def crop_share(preprocessing: Preprocessing) -> float:
    """The size over that of what is resized, by which timm divides the size and rounds down."""
    size, edge = preprocessing.size, preprocessing.resized
    return size / edge if int(size / (size / edge)) == edge else size / (edge + 0.5)


def siglip_activation(name: str, patch: int, size: int) -> str:
    """SigLIP was trained with the tanh form of GELU; timm has it in the sizes that came with SigLIP 2 alone."""
    new = (name == "base" and patch == 32) or (name == "large" and size == 512) or name == "giantopt"
    return "gelu_tanh" if new or (name == "so400m" and patch == 16) else "gelu"


def architecture_options(architecture: str) -> dict[str, Any]:
    """What the name of an architecture says and its tensors do not: activation, and epsilon of the norms.

    Names are like `vit_base_patch16_siglip_224`, `vit_large_patch14_clip_quickgelu_336`, `vit_small_patch14_dinov2`.
    """
    words = architecture.split("_")
    if not re.fullmatch(r"vit_[a-z0-9]+_patch\d{1,4}(_\w+)?", architecture):
        raise Inexpressible(f"architecture {architecture[:80]!r}; of timm bigcl reads vit_<size>_patch<n>_...")
    activation = "quick_gelu" if "quickgelu" in words else "gelu"
    if "siglip" in words and not words[-1].isdecimal():
        raise Inexpressible(f"architecture {architecture[:80]!r}: a SigLIP without its resolution at the end")
    if "siglip" in words:
        activation = siglip_activation(words[1], int(words[2].removeprefix("patch")), int(words[-1]))
    return {"activation": activation, "norm_eps": 1e-5 if "clip" in words else 1e-6}


@functools.cache
def registered(architecture: str) -> tuple[int, int] | None:
    """Width and heads that the installed timm has under a name; None without timm, or if it has no such name."""
    if importlib.util.find_spec("timm") is None:
        return None
    import timm as library
    import torch

    if not library.is_model(architecture):
        return None
    with torch.device("meta"):  # sizes alone
        model: Any = library.create_model(architecture, depth=1, num_classes=0)
    heads = getattr(getattr(model.blocks[0], "attn", None), "num_heads", None)
    return None if heads is None else (model.embed_dim, heads)


def heads_of(architecture: str, width: int) -> int:
    """Heads of an architecture, which no tensor tells: as timm has them, or as published where timm is not installed.

    Raises Inexpressible for a width that the name does not have.
    """
    known = registered(architecture)
    if known is None and width in HEADS:
        return UNUSUAL.get(architecture, HEADS[width])
    if known is None or known[0] != width:
        other = "is no published width" if known is None else f"is not that of {architecture}, {known[0]}"
        raise Inexpressible(f"model_args.num_heads is missing, and {width} {other}: the heads are not known")
    return known[1]


def tower_of(
    shapes: dict[str, tuple[int, ...]],
    *,
    architecture: str,
    pool: str,
    heads: int | None,
    size: int | None,
    **options: Any,
) -> dict[str, Any]:
    """The part of a tower that a timm ViT is whose tensors have bigcl's form.

    Sizes are read off the tensors, and what they do not tell off the name.  pool: timm's word.  heads: None for those
    of the architecture.  size: of the images, where it may be other than what the patches cover.
    """
    width, _, patch, _ = shapes["patch_embed.proj.weight"]
    options = architecture_options(architecture) | options
    grid = math.isqrt(shapes["pos_embed"][1] - ("cls_token" in shapes))
    covered = size is None or size // patch != grid
    image_size = grid * patch if covered else size
    return {
        "kind": "vit",
        "image_size": image_size,
        "trim": image_size != grid * patch,
        "patch": patch,
        "width": width,
        "depth": max(1, len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})),
        "heads": heads or heads_of(architecture, width),
        "mlp_width": shapes["blocks.0.mlp.fc1.weight"][0],
        "pool": {v: k for k, v in POOLS.items()}[pool],
        "registers": shapes["reg_token"][1] if "reg_token" in shapes else 0,
        "pre_norm": "norm_pre.weight" in shapes,
        "patch_bias": "patch_embed.proj.bias" in shapes,
        **options,
    }


def bigcl_form(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same function with tensors that a bigcl tower has a place for: layer scale (DINOv2) in the kernels before it,
    and positions for class token and patches, none for registers."""
    tensors = dict(tensors)
    for name in [n for n in tensors if n.endswith((".ls1.gamma", ".ls2.gamma"))]:
        gamma = tensors.pop(name)
        stem = name.rpartition(".ls")[0] + (".attn.proj" if ".ls1." in name else ".mlp.fc2")
        tensors[f"{stem}.weight"] = tensors[f"{stem}.weight"] * gamma[:, None]
        tensors[f"{stem}.bias"] = tensors[f"{stem}.bias"] * gamma
    position = tensors["pos_embed"]
    cls, registers = (tensors[k].shape[1] if k in tensors else 0 for k in ("cls_token", "reg_token"))
    if math.isqrt(position.shape[1]) ** 2 == position.shape[1]:  # of the patches alone
        tensors["pos_embed"] = np.pad(position, ((0, 0), (cls, 0), (0, 0)))
    elif registers:
        tensors["reg_token"] = tensors["reg_token"] + position[:, cls : cls + registers]
        tensors["pos_embed"] = np.delete(position, slice(cls, cls + registers), axis=1)
    if "head.bias" in tensors and not tensors["head.bias"].any():
        del tensors["head.bias"]
    return tensors


PUBLISHED = {"siglip": "siglip", "clip": "open_clip", "dinov2": "dinov2"}
"""Words in the name of an architecture, and the presets that hold where a file says nothing of pictures; else they are
squashed, with mean and std 0.5, as timm's plain vision transformers have them."""


def load(path: pathlib.Path) -> Model:
    """A timm ViT: a folder with `config.json` and weights, as timm and its Hub repositories have."""
    weights = files.find_weights(path)
    config = schema.read(weights.with_name("config.json"), SCHEMA)
    args, given = config.get("model_args") or {}, config.get("pretrained_cfg") or {}
    pool = args.get("global_pool", config.get("global_pool", "token"))
    if pool not in POOLS.values():
        raise Inexpressible(f"{path}: global_pool {pool!r}; bigcl has {', '.join(POOLS.values())}")
    architecture, options = config["architecture"], architecture_options(config["architecture"])
    options["activation"] = args.get("act_layer", options["activation"])
    with files.expecting(weights):
        tensors = bigcl_form(files.read_tensors(weights))
    if "head.bias" in tensors:  # a classifier is no projection
        print(f"{path}: the classifier (head.weight, head.bias) is left out")
        tensors = {k: v for k, v in tensors.items() if not k.startswith("head.")}
    if "head.weight" in tensors:
        with files.expecting(weights):
            options["embed_dim"] = len(tensors["head.weight"])
    preset = PRESETS[next((v for k, v in PUBLISHED.items() if k in architecture.split("_")), "siglip")]
    if not given:
        print(f"{path}: no pretrained_cfg: pictures as published: {preset.said()}")
    options |= {k: list(given.get(k, x)) for k, x in zip(("mean", "std"), preset.colours, strict=True)}
    shapes = {k: v.shape for k, v in tensors.items()}
    size = given.get("input_size", (3, None))[1]
    with files.expecting(weights):
        heads = args.get("num_heads")
        tower = tower_of(shapes, architecture=architecture, pool=pool, heads=heads, size=size, **options)
    task, wanted = blank({"kind": "two_tower", "towers": {"image": tower}, "losses": []})
    image = {k: v for k, v in wanted.items() if k.startswith("towers/image/")}
    arrays = read(VIT, tensors, image, where=str(path)) | {"log_scale": initial(task, "log_scale")}
    mode, edge = preset.mode, int(tower["image_size"] / (given.get("crop_pct") or 1.0))
    if given:  # where it leaves the mode out it crops
        mode = "squash" if given.get("crop_mode") == "squash" else "shortest"
    preprocessing = Preprocessing(
        tower["image_size"], mode, given.get("interpolation", preset.method), tuple(tower["mean"]), tuple(tower["std"])
    )
    return Model(task, arrays, None, preprocessing.cropping(edge))

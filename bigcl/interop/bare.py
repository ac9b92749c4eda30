"""Weights of open_clip's own CLIP or of OpenAI's without a config: sizes are read off the tensors, the rest is known of
the family."""

import math
import pathlib
import re
from typing import Any

from bigcl.interop import files, timm
from bigcl.interop.model import Inexpressible
from bigcl.interop.presets import BARE, PRESETS

BESIDE = ("input_resolution", "context_length", "vocab_size")
"""Numbers that OpenAI's files hold beside the tensors."""

Shapes = dict[str, tuple[int, ...]]


def checked(weights: pathlib.Path, family: str | None) -> str:
    """The family, if it is one whose weights need no config. Raises BadFile."""
    if family is None or family not in BARE:
        given = "name their family by" if family is None else f"{family!r} is no family without a config; known are"
        raise files.BadFile(
            f"{weights}: no open_clip_config.json beside the weights; {given} --preset {'|'.join(BARE)}"
        )
    return family


def record(weights: pathlib.Path, tensors: files.Tensors, family: str) -> dict[str, Any]:
    """What `open_clip_config.json` would say of these tensors."""
    shapes = {k: v.shape for k, v in tensors.items() if k not in BESIDE}
    with files.expecting(weights):
        return {"model_cfg": model_config(shapes, quick_gelu=PRESETS[family].activation == "quick_gelu")}


def layers(shapes: Shapes, prefix: str) -> int:
    """How many numbers follow a prefix."""
    return len({name[len(prefix) :].split(".")[0] for name in shapes if name.startswith(prefix)})


def model_config(shapes: Shapes, *, quick_gelu: bool) -> dict[str, Any]:
    """`model_cfg` of tensors of these shapes."""
    custom = "text.ln_final.weight" in shapes
    text = {k.removeprefix("text."): s for k, s in shapes.items() if k.startswith("text." if custom else "")}
    (width,), cls = text["ln_final.weight"], "cls_emb" in text
    resnet = "visual.layer1.0.conv1.weight" in shapes
    return {
        "embed_dim": text["text_projection"][1],
        "quick_gelu": quick_gelu,
        "custom_text": custom,
        "vision_cfg": resnet_config(shapes) if resnet else vision_config(shapes),
        "text_cfg": {
            "context_length": text["positional_embedding"][0] - cls,
            "vocab_size": text["token_embedding.weight"][0],
            "width": width,
            "heads": max(1, width // 64),
            "layers": layers(text, "transformer.resblocks."),
            "mlp_ratio": timm.ratio({"width": width, "mlp_width": text["transformer.resblocks.0.mlp.c_fc.weight"][0]}),
            **({"embed_cls": True} if cls else {}),
        },
    }


def vision_config(shapes: Shapes) -> dict[str, Any]:
    """`vision_cfg` of a ViT. Raises Inexpressible."""
    width, _, patch, _ = shapes["visual.conv1.weight"]
    pooler = "visual.attn_pool.query" in shapes
    if width not in timm.HEADS:
        raise Inexpressible(f"an image tower {width} wide is no published one: how many heads it has is not known")
    return {
        "image_size": patch * math.isqrt(shapes["visual.positional_embedding"][0] - 1),
        "layers": layers(shapes, "visual.transformer.resblocks."),
        "width": width,
        "patch_size": patch,
        "head_width": width // timm.HEADS[width],
        "mlp_ratio": timm.ratio(
            {"width": width, "mlp_width": shapes["visual.transformer.resblocks.0.mlp.c_fc.weight"][0]}
        ),
        "no_ln_pre": "visual.ln_pre.weight" not in shapes,
        **({"attentional_pool": True} if pooler else {}),
    }


def resnet_config(shapes: Shapes) -> dict[str, Any]:
    """`vision_cfg` of one of CLIP's ResNets."""
    stages = sorted({m[0] for name in shapes if (m := re.match(r"visual\.layer\d\.", name))})
    return {
        "image_size": 32 * math.isqrt(shapes["visual.attnpool.positional_embedding"][0] - 1),
        "layers": [layers(shapes, stage) for stage in stages],
        "width": shapes["visual.layer1.0.conv1.weight"][0],
        "head_width": 64,
        "patch_size": None,
    }

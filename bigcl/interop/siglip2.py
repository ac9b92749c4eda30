"""SigLIP 2 NaFlex in transformers: pictures in their own shape, cut into patches. (SigLIP 2 of fixed resolution has the
layout of SigLIP there.)"""

import pathlib
from typing import Any

import numpy as np

from bigcl.interop import files
from bigcl.interop.huggingface import (
    ACTIVATIONS,
    SIGLIP,
    SIGLIP_TEXT_DEFAULTS,
    SIGLIP_VISION,
    SIGLIP_VISION_DEFAULTS,
    bigcl_form,
    text_config,
    tower_of,
    transformer_config,
)
from bigcl.interop.model import Inexpressible, Model, Preprocessing, blank, expect
from bigcl.interop.presets import PRESETS, tokenizer_of
from bigcl.interop.processors import colours, method_of, pixels_config, read_processor, read_tokenizer
from bigcl.interop.table import Table, linear, read, under

PATCHES = "embeddings.patch_embedding"

VISION: Table = (*linear(PATCHES, "embed"), *(row for row in SIGLIP_VISION if not row.name.startswith(PATCHES)))

TABLE: Table = (
    *under("vision_model.", "towers/image/", VISION),
    *(row for row in SIGLIP if not row.name.startswith("vision_model.")),
)


def form(model: Model) -> tuple[dict[str, Any], Table, dict[str, np.ndarray]]:
    """Config, names and arrays of a `Siglip2Model`. Raises Inexpressible."""
    image, text = model.tower("image"), model.tower("text")
    target = "transformers' SigLIP 2"
    expect(image, "task.towers.image", target, pool=("map",), activation=ACTIVATIONS, naflex=(True,))
    expect(
        text, "task.towers.text", target, pool=("last",), causal=(False,), activation=ACTIVATIONS,
        projection_bias=(False, True),
    )  # fmt: skip
    if image["embed_dim"] or text["embed_dim"] != image["width"]:
        raise Inexpressible(
            f"task.towers.*.embed_dim: {target} projects the text to the width of the image tower, and the image not "
            "at all"
        )
    arrays = dict(model.arrays)
    arrays.setdefault("towers/text/projection/bias", np.zeros(text["embed_dim"], np.float32))
    arrays.setdefault("bias", np.zeros((), np.float32))  # logits of a softmax
    vision = {"patch_size": image["patch"], "num_patches": (image["image_size"] // image["patch"]) ** 2}
    config = {
        "architectures": ["Siglip2Model"],
        "model_type": "siglip2",
        "vision_config": {"model_type": "siglip2_vision_model", **transformer_config(image), **vision},
        "text_config": {
            "model_type": "siglip2_text_model",
            "projection_size": text["embed_dim"],
            **text_config(text, model),
        },
    }
    return config, TABLE, arrays


def processor_config(preprocessing: Preprocessing) -> dict[str, Any]:
    """Preprocessing in transformers' words."""
    return {
        "image_processor_type": "Siglip2ImageProcessor",
        "processor_class": "Siglip2Processor",
        "do_resize": True,
        "patch_size": preprocessing.patch,
        "max_num_patches": preprocessing.tokens,
        **pixels_config(preprocessing),
    }


def load(weights: pathlib.Path, config: dict[str, Any]) -> Model:
    """A `Siglip2Model`, from a file of weights and the config beside it."""
    vision = SIGLIP_VISION_DEFAULTS | {"num_patches": 256} | config.get("vision_config", {})
    text = SIGLIP_TEXT_DEFAULTS | config.get("text_config", {})
    side = int(vision["num_patches"] ** 0.5)
    if not vision["vision_use_head"] or side**2 != vision["num_patches"]:
        raise Inexpressible("vision_config: vision_use_head = False, or num_patches is no square")
    preset = PRESETS["siglip2_naflex"]
    record = read_processor(weights.parent, preset)
    image_tower = {
        "kind": "vit",
        "image_size": side * vision["patch_size"],
        "patch": vision["patch_size"],
        "naflex": True,
        "pool": "map",
        **colours(record, preset),
        **tower_of(vision, "vision_config"),
    }
    text_tower = {
        "kind": "text",
        "vocab": text["vocab_size"],
        "length": text["max_position_embeddings"],
        "causal": False,
        "pool": "last",
        "embed_dim": text.get("projection_size") or text["hidden_size"],
        "projection_bias": True,
        **tower_of(text, "text_config"),
    }
    towers = {"image": image_tower, "text": text_tower}
    task, shapes = blank({"kind": "two_tower", "towers": towers, "losses": [{"kind": "sigmoid", "of": list(towers)}]})
    with files.expecting(weights):
        tensors = bigcl_form(files.read_tensors(weights), "siglip")
    arrays = read(TABLE, tensors, shapes, where=str(weights))
    method = method_of(record, preset.method)
    how = {"kind": "naflex", "tokens": record.get("max_num_patches", side**2), "method": method}
    tokenizer = read_tokenizer(weights.parent) or tokenizer_of(preset, text["vocab_size"])
    return Model(task, arrays, tokenizer, Preprocessing.of([how], task["towers"]["image"]))

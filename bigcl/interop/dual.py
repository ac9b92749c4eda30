"""transformers' VisionTextDualEncoder around an image tower of timm's and CLIP's text tower: for pairs of towers that
have no class of their own there."""

import pathlib
from typing import Any

import numpy as np

from bigcl.interop import files, timm
from bigcl.interop.huggingface import CLIP_TEXT_DEFAULTS, TEXT, bigcl_form, clip_text, clip_text_tower
from bigcl.interop.model import Inexpressible, Model, blank
from bigcl.interop.presets import PRESETS
from bigcl.interop.processors import colours, preprocessing_of, read_processor, read_tokenizer
from bigcl.interop.table import Row, Table, dense, read, under

TRUNK = "vision_model.timm_model."

DUAL: Table = (
    *under(TRUNK, "towers/image/", timm.TRUNK),
    Row("visual_projection.weight", "towers/image/projection/kernel", dense),
    *under("text_model.", "towers/text/", TEXT),
    Row("text_projection.weight", "towers/text/projection/kernel", dense),
    Row("logit_scale", "log_scale"),
)


def form(model: Model) -> tuple[dict[str, Any], Table, dict[str, np.ndarray]]:
    """Config, names and arrays of a `VisionTextDualEncoderModel` around timm's image tower and CLIP's text tower."""
    tower = model.tower("image")
    if "bias" in model.arrays:
        raise Inexpressible("task.losses: a sigmoid loss has a bias; VisionTextDualEncoder has none")
    text = clip_text(model)
    architecture, args = timm.arguments(tower)
    if not tower["embed_dim"]:
        raise Inexpressible("task.towers.image.embed_dim: VisionTextDualEncoder always projects the image; set it")
    assert model.preprocessing is not None
    vision = {
        "model_type": "timm_wrapper",
        "architecture": architecture,
        "model_args": args,
        "hidden_size": tower["width"],
        "do_pooling": True,
        "num_classes": 0,
        "label_names": [],
        "pretrained_cfg": timm.data_config(model.preprocessing),
    }
    config = {
        "architectures": ["VisionTextDualEncoderModel"],
        "model_type": "vision-text-dual-encoder",
        "projection_dim": tower["embed_dim"],
        "vision_config": vision,
        "text_config": text,
    }
    return config, DUAL, timm.trunk_form(model.arrays, tower)


def load(weights: pathlib.Path, config: dict[str, Any]) -> Model:
    """A `VisionTextDualEncoderModel` of such towers, from a file of weights and the config beside it."""
    vision, text = config.get("vision_config", {}), CLIP_TEXT_DEFAULTS | config.get("text_config", {})
    kinds = vision.get("model_type"), text.get("model_type")
    if kinds != ("timm_wrapper", "clip_text_model"):
        raise Inexpressible(f"config.json: towers {kinds}; bigcl reads timm_wrapper with clip_text_model")
    if "projection_dim" not in config:
        raise files.BadFile(f"{weights.with_name('config.json')}: projection_dim is missing; expected the joint width")
    with files.expecting(weights):
        tensors = bigcl_form(files.read_tensors(weights), "clip")
        trunk = timm.bigcl_form({k.removeprefix(TRUNK): v for k, v in tensors.items() if k.startswith(TRUNK)})
    tensors = {k: v for k, v in tensors.items() if not k.startswith(TRUNK)} | {
        f"{TRUNK}{k}": v for k, v in trunk.items()
    }
    args, given = vision.get("model_args") or {}, vision.get("pretrained_cfg") or {}
    preset = PRESETS["open_clip"]
    record, architecture = read_processor(weights.parent, preset), str(vision.get("architecture"))
    options = timm.architecture_options(architecture)
    options["activation"] = args.get("act_layer", options["activation"])
    options |= colours(record, preset)
    with files.expecting(weights):
        image = timm.tower_of(
            {k: v.shape for k, v in trunk.items()},
            architecture=architecture,
            pool=args.get("global_pool", "token"),
            heads=args.get("num_heads"),
            size=given.get("input_size", (3, None))[1],
            embed_dim=config["projection_dim"],
            **options,
        )
    towers = {"image": image, "text": clip_text_tower(text, config["projection_dim"])}
    task, shapes = blank({"kind": "two_tower", "towers": towers, "losses": [{"kind": "infonce", "of": list(towers)}]})
    arrays = read(DUAL, tensors, shapes, where=str(weights))
    preprocessing = preprocessing_of(record, task["towers"]["image"], preset)
    return Model(task, arrays, read_tokenizer(weights.parent), preprocessing)

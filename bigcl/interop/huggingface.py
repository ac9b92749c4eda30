"""transformers: CLIP, SigLIP (and SigLIP 2 of fixed resolution), DINOv2; and which module has the other families."""

import importlib
import pathlib
from typing import Any

import numpy as np

from bigcl.interop import files, schema, timm
from bigcl.interop.model import Inexpressible, Model, blank, expect, initial
from bigcl.interop.presets import PRESETS, tokenizer_of
from bigcl.interop.processors import (
    colours,
    preprocessing_of,
    processor_config,
    read_processor,
    read_spiece,
    read_tokenizer,
    write_tokenizer,
)
from bigcl.interop.table import (
    K,
    Q,
    Row,
    Table,
    V,
    batched,
    convolution,
    dense,
    flat,
    from_heads,
    into_heads,
    linear,
    multihead,
    norm,
    read,
    under,
    write,
)

BLOCK: Table = (
    *norm("layer_norm1", "norm1"),
    *into_heads("self_attn.q_proj", "attention", Q),
    *into_heads("self_attn.k_proj", "attention", K),
    *into_heads("self_attn.v_proj", "attention", V),
    *from_heads("self_attn.out_proj", "attention"),
    *norm("layer_norm2", "norm2"),
    *linear("mlp.fc1", "mlp/up"),
    *linear("mlp.fc2", "mlp/down"),
)

TEXT: Table = (
    Row("embeddings.token_embedding.weight", "embed"),
    Row("embeddings.position_embedding.weight", "position"),
    *under("encoder.layers.*.", "stack/blocks/", BLOCK),
    *norm("final_layer_norm", "norm"),
)

CLIP_VISION: Table = (
    Row("embeddings.class_embedding", "cls", flat),
    Row("embeddings.patch_embedding.weight", "embed/kernel", convolution),
    Row("embeddings.position_embedding.weight", "position"),
    *norm("pre_layrnorm", "pre_norm"),  # sic
    *under("encoder.layers.*.", "stack/blocks/", BLOCK),
    *norm("post_layernorm", "norm"),
)

CLIP: Table = (
    *under("vision_model.", "towers/image/", CLIP_VISION),
    Row("visual_projection.weight", "towers/image/projection/kernel", dense),
    *under("text_model.", "towers/text/", TEXT),
    Row("text_projection.weight", "towers/text/projection/kernel", dense),
    Row("logit_scale", "log_scale"),
)

SIGLIP_VISION: Table = (
    Row("embeddings.patch_embedding.weight", "embed/kernel", convolution),
    Row("embeddings.patch_embedding.bias", "embed/bias"),
    Row("embeddings.position_embedding.weight", "position"),
    *under("encoder.layers.*.", "stack/blocks/", BLOCK),
    *norm("post_layernorm", "norm"),
    Row("head.probe", "map/probe"),
    *multihead("head.attention", "map/attention"),
    *norm("head.layernorm", "map/norm"),
    *linear("head.mlp.fc1", "map/mlp/up"),
    *linear("head.mlp.fc2", "map/mlp/down"),
)

SIGLIP: Table = (
    *under("vision_model.", "towers/image/", SIGLIP_VISION),
    *under("text_model.", "towers/text/", TEXT),
    *linear("text_model.head", "towers/text/projection"),
    Row("logit_scale", "log_scale", flat),
    Row("logit_bias", "bias", flat),
)

DINOV2: Table = (
    Row("embeddings.cls_token", "cls", batched),
    Row("embeddings.register_tokens", "registers", batched),
    Row("embeddings.patch_embeddings.projection.weight", "embed/kernel", convolution),
    Row("embeddings.patch_embeddings.projection.bias", "embed/bias"),
    Row("embeddings.position_embeddings", "position", batched),
    *under(
        "encoder.layer.*.",
        "stack/blocks/",
        (
            *norm("norm1", "norm1"),
            *into_heads("attention.attention.query", "attention", Q),
            *into_heads("attention.attention.key", "attention", K),
            *into_heads("attention.attention.value", "attention", V),
            *from_heads("attention.output.dense", "attention"),
            *norm("norm2", "norm2"),
            *linear("mlp.fc1", "mlp/up"),
            *linear("mlp.fc2", "mlp/down"),
        ),
    ),
    *norm("layernorm", "norm"),
)

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_pytorch_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
}
BUFFERS = ("embeddings.position_ids",)
"""Numbers 0, 1, 2, ... that files of older versions hold."""


def transformer_config(tower: dict[str, Any]) -> dict[str, Any]:
    """What the configs of all transformers have in common."""
    return {
        "hidden_size": tower["width"],
        "num_hidden_layers": tower["depth"],
        "num_attention_heads": tower["heads"],
        "intermediate_size": tower["mlp_width"],
        "hidden_act": ACTIVATIONS[tower["activation"]],
        "layer_norm_eps": tower["norm_eps"],
    }


def text_config(tower: dict[str, Any], model: Model) -> dict[str, Any]:
    """The config of a text tower: sizes, and the ids of the marks."""
    bos, eos, pad = special_ids(model, tower)
    return {
        **transformer_config(tower),
        "vocab_size": tower["vocab"],
        "max_position_embeddings": tower["length"],
        "bos_token_id": bos,
        "eos_token_id": eos,
        "pad_token_id": pad,
    }


def special_ids(model: Model, tower: dict[str, Any]) -> tuple[int | None, int | None, int]:
    """Ids of the beginning, the end and the padding."""
    if model.tokenizer is None:
        return None, looked_for_end(model, tower), 0
    tokenizer = model.tokenizer
    bos, eos = (ids[0] if ids else None for ids in (tokenizer.prefix[-1:], tokenizer.suffix[:1]))
    return bos, eos, tokenizer.pad_id


def looked_for_end(model: Model, tower: dict[str, Any]) -> int:
    """The id at which a text tower pools: without `eos_id` the largest in a text, and so of the tokenizer, whose
    vocabulary may be smaller than the tower's."""
    if tower["eos_id"] is not None:
        return tower["eos_id"]
    return (tower["vocab"] if model.tokenizer is None else model.tokenizer.vocab_size) - 1


def vision_config(tower: dict[str, Any]) -> dict[str, Any]:
    """The config of an image tower."""
    return {**transformer_config(tower), "image_size": tower["image_size"], "patch_size": tower["patch"]}


def clip_text(model: Model) -> dict[str, Any]:
    """The text tower as a `CLIPTextModel` config. Raises Inexpressible."""
    tower, where = model.tower("text"), "task.towers.text"
    # What follows the end token is not seen by it, so that the mask of padding changes nothing.
    expect(
        tower, where, "transformers' CLIP", pool=("eot",), activation=ACTIVATIONS, pad_id=(tower["pad_id"],),
        eos_id=(tower["eos_id"],),
    )  # fmt: skip
    config = text_config(tower, model)
    looked_for = looked_for_end(model, tower)
    if config["eos_token_id"] != looked_for:
        raise Inexpressible(f"{where}.pool = 'eot': finds id {looked_for}, which is not the end of this tokenizer")
    if looked_for == 2:
        raise Inexpressible(f"{where}: ends texts with id 2, which transformers' CLIP takes for something else")
    if not tower["embed_dim"]:
        raise Inexpressible(f"{where}.embed_dim: CLIP in transformers always projects the text; set it")
    return {"model_type": "clip_text_model", "projection_dim": tower["embed_dim"], **config}


def clip(model: Model) -> tuple[dict[str, Any], Table, dict[str, np.ndarray]]:
    """Config, names and arrays of a `CLIPModel`. Raises Inexpressible."""
    tower, where = model.tower("image"), "task.towers.image"
    if "bias" in model.arrays:
        raise Inexpressible("task.losses: a sigmoid loss has a bias; CLIP in transformers has none")
    text = clip_text(model)
    expect(
        tower, where, "transformers' CLIP", pool=("cls",), activation=ACTIVATIONS, pre_norm=(True,),
        patch_bias=(False, True), trim=(False, True),
    )  # fmt: skip
    if not tower["embed_dim"]:
        raise Inexpressible(f"{where}.embed_dim: CLIP in transformers always projects the image; set it")
    arrays = timm.without_patch_bias(model.arrays, tower) if tower["patch_bias"] else model.arrays
    vision = {"model_type": "clip_vision_model", "projection_dim": tower["embed_dim"], **vision_config(tower)}
    config = {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": tower["embed_dim"],
        "vision_config": vision,
        "text_config": text,
    }
    return config, CLIP, arrays


def siglip(model: Model) -> tuple[dict[str, Any], Table, dict[str, np.ndarray]]:
    """Config, names and arrays of a `SiglipModel`. Raises Inexpressible."""
    image, text = model.tower("image"), model.tower("text")
    expect(
        image, "task.towers.image", "transformers' SigLIP", pool=("map",), activation=ACTIVATIONS, trim=(False, True)
    )
    expect(
        text, "task.towers.text", "transformers' SigLIP", pool=("last",), causal=(False,), activation=ACTIVATIONS,
        projection_bias=(False, True),
    )  # fmt: skip
    if image["embed_dim"] or text["embed_dim"] != image["width"]:
        raise Inexpressible(
            "task.towers.*.embed_dim: SigLIP in transformers projects the text to the width of the image tower, "
            "and the image not at all"
        )
    arrays = dict(model.arrays)
    arrays.setdefault("towers/text/projection/bias", np.zeros(text["embed_dim"], np.float32))
    arrays.setdefault("bias", np.zeros((), np.float32))  # logits of a softmax
    config = {
        "architectures": ["SiglipModel"],
        "model_type": "siglip",
        "vision_config": {"model_type": "siglip_vision_model", **vision_config(image)},
        "text_config": {
            "model_type": "siglip_text_model",
            "projection_size": text["embed_dim"],
            **text_config(text, model),
        },
    }
    return config, SIGLIP, arrays


PROCESSORS = {"clip": "CLIPProcessor", "siglip": "SiglipProcessor"}


def export(model: Model, out: pathlib.Path) -> None:
    """Writes a folder for `AutoModel`, `AutoProcessor` and `AutoTokenizer.from_pretrained(OUT)`.

    The first that can express the model: CLIPModel, SiglipModel, VisionTextDualEncoderModel.
    """
    config, names, arrays = expressed(model)
    files.write_safetensors(write(names, arrays), out / "model.safetensors")
    files.write_json({**config, "dtype": "float32"}, out / "config.json")
    assert model.preprocessing is not None
    if config["model_type"] == "siglip2":
        processor = elsewhere("siglip2").processor_config(model.preprocessing)
    else:
        kind = PROCESSORS.get(config["model_type"], "VisionTextDualEncoderProcessor")
        processor = processor_config(model.preprocessing, kind)
    files.write_json(processor, out / "preprocessor_config.json")
    if model.tokenizer is not None:
        write_tokenizer(model, out)


def expressed(model: Model) -> tuple[dict[str, Any], Table, dict[str, np.ndarray]]:
    """Config, names and arrays of the first class that can express a model. Raises Inexpressible with what stands in
    the way of each."""
    if model.tower("image").get("naflex"):
        return elsewhere("siglip2").form(model)
    refused = []
    for name, form in {"clip": clip, "siglip": siglip, "dual": elsewhere("vision-text-dual-encoder").form}.items():
        try:
            return form(model)
        except Inexpressible as error:
            refused.append(f"  {name}: {error}")
    raise Inexpressible("transformers has no class for this model:\n" + "\n".join(refused))


def elsewhere(model_type: str) -> Any:
    """The module of a family that is built upon this one."""
    return importlib.import_module(ELSEWHERE[model_type])


def tower_of(config: dict[str, Any], where: str) -> dict[str, Any]:
    """What all transformers' configs say of a tower. Raises Inexpressible for an activation that bigcl lacks."""
    known = {v: k for k, v in ACTIVATIONS.items()} | {"gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh"}
    if config["hidden_act"] not in known:
        raise Inexpressible(f"{where}.hidden_act = {config['hidden_act']!r}; bigcl has {', '.join(known)}")
    return {
        "width": config["hidden_size"],
        "depth": config["num_hidden_layers"],
        "heads": config["num_attention_heads"],
        "mlp_width": config["intermediate_size"],
        "activation": known[config["hidden_act"]],
        "norm_eps": config["layer_norm_eps"],
    }


# What a config of transformers leaves out, since it is the default of its class.
CLIP_TEXT_DEFAULTS = {
    "vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12,
    "num_attention_heads": 8, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
    "eos_token_id": 49407,
}  # fmt: skip
CLIP_VISION_DEFAULTS = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
}  # fmt: skip
SIGLIP_TEXT_DEFAULTS = {
    "vocab_size": 32000, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "max_position_embeddings": 64, "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}  # fmt: skip
SIGLIP_VISION_DEFAULTS = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "image_size": 224, "patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
    "vision_use_head": True,
}  # fmt: skip
DINOV2_DEFAULTS: dict[str, Any] = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "mlp_ratio": 4, "hidden_act": "gelu",
    "layer_norm_eps": 1e-6, "image_size": 224, "patch_size": 14, "use_swiglu_ffn": False, "qkv_bias": True,
}  # fmt: skip


def clip_task(config: dict[str, Any]) -> tuple[dict[str, Any], Table]:
    """The task that a CLIP config describes, and its names."""
    vision = CLIP_VISION_DEFAULTS | config.get("vision_config", {})
    text = CLIP_TEXT_DEFAULTS | config.get("text_config", {})
    dim = config.get("projection_dim", 512)
    image_tower = {
        "kind": "vit",
        "image_size": vision["image_size"],
        "patch": vision["patch_size"],
        "trim": vision["image_size"] % vision["patch_size"] > 0,
        "pool": "cls",
        "pre_norm": True,
        "patch_bias": False,
        "embed_dim": dim,
        **tower_of(vision, "vision_config"),
    }
    towers = {"image": image_tower, "text": clip_text_tower(text, dim)}
    return {"kind": "two_tower", "towers": towers, "losses": [{"kind": "infonce", "of": list(towers)}]}, CLIP


def clip_text_tower(text: dict[str, Any], dim: int) -> dict[str, Any]:
    """The text tower that a CLIP text config describes."""
    end = text["eos_token_id"]
    if end is None or end >= text["vocab_size"]:
        raise Inexpressible(f"text_config.eos_token_id = {end}: no text of {text['vocab_size']} ids ends with it")
    return {
        "kind": "text",
        "vocab": text["vocab_size"],
        "length": text["max_position_embeddings"],
        "causal": True,
        "pool": "eot",
        "eos_id": None if end in (2, text["vocab_size"] - 1) else end,  # 2 stands for the largest id there
        "embed_dim": dim,
        **tower_of(text, "text_config"),
    }


def siglip_task(config: dict[str, Any]) -> tuple[dict[str, Any], Table]:
    """The task that a SigLIP config describes, and its names."""
    vision = SIGLIP_VISION_DEFAULTS | config.get("vision_config", {})
    text = SIGLIP_TEXT_DEFAULTS | config.get("text_config", {})
    if not vision["vision_use_head"]:
        raise Inexpressible("vision_config.vision_use_head = False: no embedding without the head")
    image_tower = {
        "kind": "vit",
        "image_size": vision["image_size"],
        "patch": vision["patch_size"],
        "trim": vision["image_size"] % vision["patch_size"] > 0,
        "pool": "map",
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
    return {"kind": "two_tower", "towers": towers, "losses": [{"kind": "sigmoid", "of": list(towers)}]}, SIGLIP


def dinov2_task(config: dict[str, Any]) -> tuple[dict[str, Any], Table]:
    """The task of one image tower that a DINOv2 config describes, and its names."""
    config = DINOV2_DEFAULTS | config
    if config["use_swiglu_ffn"] or not config["qkv_bias"]:
        raise Inexpressible("use_swiglu_ffn = True (DINOv2 giant): bigcl's gated MLP has other weights")
    registers = config["model_type"] == "dinov2_with_registers"
    config["intermediate_size"] = int(config["hidden_size"] * config["mlp_ratio"])
    image_tower = {
        "kind": "vit",
        "image_size": config["image_size"],
        "patch": config["patch_size"],
        "trim": config["image_size"] % config["patch_size"] > 0,
        "pool": "cls",
        "registers": config.get("num_register_tokens", 4) if registers else 0,
        **tower_of(config, "config"),
    }
    table = under("", "towers/image/", DINOV2)
    return {"kind": "two_tower", "towers": {"image": image_tower}, "losses": []}, table


def bigcl_form(tensors: dict[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    """The same function with tensors that bigcl has a place for: without buffers and what only training uses, and with
    layer scale (DINOv2) in the kernels before it."""
    tensors = {k: v for k, v in tensors.items() if not k.endswith((*BUFFERS, "embeddings.mask_token"))}
    for name in ("logit_scale", "logit_bias"):  # of one element or none, depending on the version
        if name in tensors:
            tensors[name] = tensors[name].reshape(1 if kind == "siglip" else ())
    for name in [n for n in tensors if n.endswith("lambda1")]:
        stem = name.rpartition(".layer_scale")[0] + (".attention.output.dense" if "scale1" in name else ".mlp.fc2")
        gamma = tensors.pop(name)
        tensors[f"{stem}.weight"] = tensors[f"{stem}.weight"] * gamma[:, None]
        tensors[f"{stem}.bias"] = tensors[f"{stem}.bias"] * gamma
    return tensors


TOWER_SCHEMA: schema.Schema = {
    "hidden_size": schema.WIDTH,
    "num_hidden_layers": schema.DEPTH,
    "num_attention_heads": schema.HEADS,
    "intermediate_size": schema.WIDTH,
    "hidden_act": schema.WORD,
    "layer_norm_eps": schema.EPSILON,
}
PICTURE_SCHEMA: schema.Schema = {"image_size": schema.PIXELS, "patch_size": schema.PATCH}
TOKEN_SCHEMA: schema.Schema = {"vocab_size": schema.VOCABULARY, "max_position_embeddings": schema.TOKENS}
MODEL_SCHEMA: schema.Schema = {
    "model_type": schema.needed(schema.WORD),
    "projection_dim": schema.WIDTH,
    **TOWER_SCHEMA,
    **PICTURE_SCHEMA,
    **TOKEN_SCHEMA,
    "mlp_ratio": schema.RATIO,
    "use_swiglu_ffn": schema.FLAG,
    "qkv_bias": schema.FLAG,
    "num_register_tokens": schema.whole(1 << 10, lowest=0),
    "pad_token_id": schema.nullable(schema.ID),
    "position_embedding_type": schema.nullable(schema.WORD),
    "is_decoder": schema.FLAG,
    "vision_config": {
        **TOWER_SCHEMA,
        **PICTURE_SCHEMA,
        "num_patches": schema.TOKENS,
        "vision_use_head": schema.FLAG,
        "model_type": schema.WORD,
        "architecture": schema.WORD,
        "architectures": schema.ANYTHING,  # not read, and no misspelt architecture
        "model_args": schema.Maybe(timm.ARGUMENTS_SCHEMA),
        "pretrained_cfg": schema.Maybe(timm.DATA_SCHEMA),
    },
    "text_config": {
        **TOWER_SCHEMA,
        **TOKEN_SCHEMA,
        "projection_size": schema.nullable(schema.WIDTH),
        "eos_token_id": schema.nullable(schema.ID),
        "bos_token_id": schema.ANYTHING,  # not read, and no misspelt eos_token_id
        "model_type": schema.WORD,
    },
}
"""Of all families together: what a family does not read is rarely there, and of the same kind."""

FAMILIES = {
    "clip": clip_task,
    "siglip": siglip_task,
    "dinov2": dinov2_task,
    "dinov2_with_registers": dinov2_task,
}
ELSEWHERE = dict.fromkeys(("bert", "roberta", "xlm-roberta"), "bigcl.interop.bert")
ELSEWHERE |= {"siglip2": "bigcl.interop.siglip2", "vision-text-dual-encoder": "bigcl.interop.dual"}


def load(path: pathlib.Path) -> Model:
    """A folder with `config.json` and weights, as `save_pretrained` writes and Hub repositories have."""
    weights = files.find_weights(path)
    config = schema.read(weights.with_name("config.json"), MODEL_SCHEMA)
    kind = config["model_type"]
    if kind in ELSEWHERE:
        return elsewhere(kind).load(weights, config)
    if kind not in FAMILIES:
        raise Inexpressible(f"{path}: model_type {kind!r}; bigcl reads {', '.join([*FAMILIES, *ELSEWHERE])}")
    task, names = FAMILIES[kind](config)
    image, preset = task["towers"]["image"], PRESETS[PUBLISHED[kind]]
    record = read_processor(weights.parent, preset)
    image |= colours(record, preset)
    task, shapes = blank(task)
    scalars = {name: shapes.pop(name) for name in ("log_scale",) if not task["losses"]}  # a lone tower has none
    with files.expecting(weights):
        tensors = bigcl_form(files.read_tensors(weights), kind)
    arrays = read(names, tensors, shapes, where=str(weights))
    arrays |= {name: initial(task, name) for name in scalars}
    tokenizer = read_tokenizer(weights.parent) or (read_spiece(weights.parent) if kind == "siglip" else None)
    if tokenizer is None and "text" in task["towers"]:
        vocab = task["towers"]["text"]["vocab"]
        published = PRESETS["siglip2"] if vocab in PRESETS["siglip2"].vocab else preset
        tokenizer = tokenizer_of(published, vocab)
    return Model(task, arrays, tokenizer, preprocessing_of(record, image, preset))


PUBLISHED = {"clip": "openai", "siglip": "siglip", "dinov2": "dinov2", "dinov2_with_registers": "dinov2"}

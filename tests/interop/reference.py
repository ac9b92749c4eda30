"""Tiny models of transformers and open_clip with random weights, each with the bigcl towers that should equal it."""

import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import open_clip
import open_clip.loss
import open_clip.model
import timm
import torch
import transformers

from bigcl.interop import huggingface
from bigcl.interop import open_clip as names
from bigcl.interop.table import Table

IMAGE = {"image_size": 24, "patch": 8, "width": 32, "depth": 3, "heads": 4, "mlp_width": 48}
TEXT = {"vocab": 50, "length": 10, "width": 24, "depth": 2, "heads": 2, "mlp_width": 36}
CLIP_DIM = 20
RATIO = 1.5  # MLP width / width, in both towers


class Reference(NamedTuple):
    """An outside model and what bigcl calls the same.

    run: `(model, images, text)` to image and text features before normalisation, logits and loss.
    table: where its weights go.  towers, loss: parts of a bigcl task.
    """

    model: torch.nn.Module
    run: Callable[[Any, torch.Tensor, torch.Tensor], dict[str, torch.Tensor]]
    table: Table
    towers: dict[str, dict[str, Any]]
    loss: str


def clip_towers(activation: str) -> dict[str, dict[str, Any]]:
    common = {"activation": activation, "norm_eps": 1e-5, "embed_dim": CLIP_DIM}
    return {
        "image": {"kind": "vit", **IMAGE, **common, "pool": "cls", "pre_norm": True, "patch_bias": False},
        "text": {"kind": "text", **TEXT, **common, "pool": "eot", "causal": True},
    }


def siglip_towers(activation: str) -> dict[str, dict[str, Any]]:
    common = {"activation": activation, "norm_eps": 1e-6}
    return {
        "image": {"kind": "vit", **IMAGE, **common, "pool": "map"},
        "text": {
            "kind": "text",
            **TEXT,
            **common,
            "pool": "last",
            "causal": False,
            "embed_dim": IMAGE["width"],
            "projection_bias": True,
        },
    }


def transformers_sizes(tower: dict[str, int], **more: Any) -> dict[str, Any]:
    names = {
        "width": "hidden_size", "depth": "num_hidden_layers", "heads": "num_attention_heads",
        "mlp_width": "intermediate_size", "patch": "patch_size",
        "vocab": "vocab_size", "length": "max_position_embeddings",
    }  # fmt: skip
    special = {"bos_token_id": 1, "eos_token_id": tower["vocab"] - 1} if "vocab" in tower else {}
    return {names.get(k, k): v for k, v in tower.items()} | special | more


def transformers_clip(activation: str) -> Reference:
    image, text = (transformers_sizes(tower, hidden_act=activation) for tower in (IMAGE, TEXT))
    config = transformers.CLIPConfig(vision_config=image, text_config=text, projection_dim=CLIP_DIM)
    return Reference(
        transformers.CLIPModel(config), run_transformers, huggingface.CLIP, clip_towers(activation), "infonce"
    )


def transformers_siglip() -> Reference:
    image, text = transformers_sizes(IMAGE), transformers_sizes(TEXT, projection_size=IMAGE["width"])
    model = transformers.SiglipModel(transformers.SiglipConfig(vision_config=image, text_config=text))
    return Reference(model, run_transformers, huggingface.SIGLIP, siglip_towers("gelu_tanh"), "sigmoid")


def run_transformers(model: Any, images: torch.Tensor, text: torch.Tensor) -> dict[str, torch.Tensor]:
    features = {
        "image": model.get_image_features(pixel_values=images).pooler_output,
        "text": model.get_text_features(input_ids=text).pooler_output,
    }
    both = model(input_ids=text, pixel_values=images, return_loss=True)
    return {**features, "logits": both.logits_per_image, "loss": both.loss}


def open_clip_vision() -> open_clip.model.CLIPVisionCfg:
    return open_clip.model.CLIPVisionCfg(
        layers=IMAGE["depth"], width=IMAGE["width"], head_width=IMAGE["width"] // IMAGE["heads"],
        mlp_ratio=RATIO, patch_size=IMAGE["patch"], image_size=IMAGE["image_size"],
    )  # fmt: skip


def open_clip_text(**more: Any) -> open_clip.model.CLIPTextCfg:
    return open_clip.model.CLIPTextCfg(
        context_length=TEXT["length"], vocab_size=TEXT["vocab"], width=TEXT["width"],
        heads=TEXT["heads"], layers=TEXT["depth"], mlp_ratio=RATIO, **more,
    )  # fmt: skip


def open_clip_clip(activation: str) -> Reference:
    model = open_clip.model.CLIP(CLIP_DIM, open_clip_vision(), open_clip_text(), quick_gelu=activation == "quick_gelu")
    return Reference(
        model,
        run_open_clip,
        names.table(trunk=False, custom_text=False, bias=False),
        clip_towers(activation),
        "infonce",
    )


def open_clip_siglip(activation: str) -> Reference:
    """Its configurations differ in the activation, "gelu" or "gelu_tanh", by model and by tower."""
    act = {} if activation == "gelu" else {"act_kwargs": {"approximate": "tanh"}}
    text = open_clip_text(no_causal_mask=True, pool_type="last", proj_bias=True, norm_kwargs={"eps": 1e-6}, **act)
    model = open_clip.model.CustomTextCLIP(IMAGE["width"], open_clip_vision(), text, init_logit_bias=-10)
    trunk = timm.create_model(
        "vit_base_patch16_siglip_224", img_size=IMAGE["image_size"], patch_size=IMAGE["patch"],
        embed_dim=IMAGE["width"], depth=IMAGE["depth"], num_heads=IMAGE["heads"],
        mlp_ratio=RATIO, act_layer=activation, num_classes=0,
    )  # fmt: skip
    # Named as by open_clip's own adapter, which takes timm's full sizes only.
    model.visual = torch.nn.Sequential(OrderedDict(trunk=trunk))
    return Reference(
        model, run_open_clip, names.table(trunk=True, custom_text=True, bias=True), siglip_towers(activation), "sigmoid"
    )


def run_open_clip(model: Any, images: torch.Tensor, text: torch.Tensor) -> dict[str, torch.Tensor]:
    logits, _ = model.get_logits(images, text)
    loss = open_clip.ClipLoss() if model.logit_bias is None else open_clip.loss.SigLipLoss()
    return {
        "image": model.encode_image(images),
        "text": model.encode_text(text),
        "logits": logits,
        "loss": loss(*model(images, text)),
    }


REFERENCES: dict[str, Callable[[], Reference]] = {
    "transformers-clip-quick_gelu": lambda: transformers_clip("quick_gelu"),
    "transformers-clip-gelu": lambda: transformers_clip("gelu"),
    "transformers-siglip": transformers_siglip,
    "open_clip-clip-quick_gelu": lambda: open_clip_clip("quick_gelu"),
    "open_clip-clip-gelu": lambda: open_clip_clip("gelu"),
    "open_clip-siglip-gelu": lambda: open_clip_siglip("gelu"),
    "open_clip-siglip-gelu_tanh": lambda: open_clip_siglip("gelu_tanh"),
}


def randomize(reference: Reference, seed: int) -> None:
    """Weights that hide nothing: biases and norms away from 0 and 1, embeddings so small that norms' epsilon counts."""
    torch.manual_seed(seed)
    paths = {row.name: row.path for row in reference.table}
    for name, weight in reference.model.named_parameters():
        path = paths[re.sub(r"\.\d+\.", ".*.", name, count=1)].split("/")
        with torch.no_grad():
            match path:
                case ["log_scale"]:
                    weight.fill_(np.log(5.0))
                case ["bias"]:
                    weight.fill_(-1.5)
                case [_, _, "embed" | "cls" | "position", *_]:
                    weight.normal_(std=0.01 / np.sqrt(weight[0].numel()) if path[-1] == "kernel" else 0.01)
                case _ if weight.ndim == 1:
                    weight.add_(torch.randn_like(weight), alpha=0.3)
                case _:
                    weight.normal_(std=weight.shape[-1] ** -0.5)


def inputs(reference: Reference, seed: int, batch: int = 5) -> dict[str, np.ndarray]:
    """Normalised images `[B, H, W, 3]` and texts `[B, N]` of different lengths.

    CLIP's texts end with the largest id and are padded with 0, SigLIP's are padded with 1.
    """
    rng = np.random.default_rng(seed)
    side, length, vocab = IMAGE["image_size"], TEXT["length"], TEXT["vocab"]
    text = rng.integers(2, vocab - 1, (batch, length))
    end = rng.permutation(np.arange(2, length))[:batch]
    places = np.arange(length)[None]
    if reference.loss == "infonce":
        text = np.where(places < end[:, None], text, np.where(places == end[:, None], vocab - 1, 0))
    else:
        text = np.where(places < end[:, None], text, 1)
    return {"image": rng.normal(size=(batch, side, side, 3)).astype(np.float32), "text": text.astype(np.int32)}

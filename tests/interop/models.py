"""Small models with random weights, of the kinds that leave for the libraries."""

import importlib.util

import numpy as np
import pytest

from bigcl import export as command
from bigcl.interop.model import Model, Preprocessing, blank, save

TEXTS = ["a cat on a mat", "the dog and the log", "Straße und Café", "東京の夜"] * 3
PEERS = pytest.mark.skipif(
    any(importlib.util.find_spec(p) is None for p in ("torch", "transformers", "open_clip", "timm")),
    reason="runs the targets' own libraries: pip install '.[interop-test]'",
)

IMAGE = {"kind": "vit", "image_size": 16, "patch": 8, "width": 32, "depth": 2, "heads": 4, "mlp_width": 48}
IMAGE |= {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}
TEXT = {"kind": "text", "length": 12, "width": 24, "depth": 2, "heads": 2, "mlp_width": 36}
EMOJI = {"image": {"pool": "mean", "embed_dim": 20}, "text": {"embed_dim": 20, "pad_id": 0}}
CLIP = {
    "image": {"pre_norm": True, "patch_bias": False, "embed_dim": 20, "activation": "quick_gelu", "norm_eps": 1e-5},
    "text": {"embed_dim": 20, "activation": "quick_gelu", "norm_eps": 1e-5},
}
PADDED = {**CLIP, "text": {**CLIP["text"], "vocab": 320}}
SIGLIP = {
    "image": {"pool": "map"},
    "text": {"embed_dim": 32, "causal": False, "pool": "last", "projection_bias": True},
}


def make(towers, tokenizer, loss="infonce", mode="squash", edge=None, **change):
    """A model with random weights. change: options of the image tower."""
    image, text = {**IMAGE, **towers["image"], **change}, {**TEXT, "vocab": tokenizer.vocab_size, **towers["text"]}
    task = {
        "kind": "two_tower",
        "towers": {"image": image, "text": text},
        "losses": [{"kind": loss, "of": ["image", "text"]}],
    }
    task, shapes = blank(task)
    rng = np.random.default_rng(0)
    arrays = {k: rng.normal(scale=0.2, size=s).astype(np.float32) for k, s in shapes.items()}
    arrays["log_scale"] = np.array(2.0, np.float32)
    return Model(
        task,
        arrays,
        tokenizer,
        Preprocessing.of(Preprocessing(16, mode, edge=edge).transforms(), task["towers"]["image"]),
    )


def exported(model, target, folder, **options):
    """The figures of the proof of a model that is saved in `folder/run` and exported to `folder/out`."""
    save(model, folder / "run")
    return command.export(folder / "run", target, folder / "out", **options)

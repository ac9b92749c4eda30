r"""CLIP (Radford et al. 2021): two towers, softmax over the global batch, with the published hyperparameters (tables 19
and 20).

    python -m bigcl.train --config configs/clip.py:size=B/32,data=/data/pairs,tokenizer=clip/tokenizer.json \
        --workdir runs/clip_b32

`data` is a folder of ArrayRecord files whose examples hold `image` (encoded bytes) and `text`, or `tfds:NAME`.
`tokenizer` is a tokenizer.json, such as that of openai/clip-vit-base-patch32. The published ViT-B/32 run sees 12.8
billion pairs: 390,625 steps of 32,768; OpenCLIP's on LAION-400M reached 62.96% zero-shot on ImageNet after 36 h on 128
A100 (its docs/PRETRAINED.md). `smoke` shrinks everything to seconds on synthetic data.
"""

from configs import base

SIZES = {"B/32": (5e-4, 512, "B"), "B/16": (5e-4, 512, "B"), "L/14": (4e-4, 768, "L")}
"""Learning rate, joint width, text tower."""


def get_config(arg=None):
    """Arguments: `size`, `res`, `batch`, `steps`, `data`, `tokenizer`, `smoke`."""
    arg = base.parse_arg(arg, size="B/32", res=224, batch=32_768, steps=390_625, data="", tokenizer="", smoke=False)
    lr, width, text = base.choose("size", arg.size, SIZES)
    block = {"activation": "quick_gelu", "norm_eps": 1e-5, "embed_dim": width, "remat": "nothing_saveable"}

    c = base.image_text(arg, length=77, crop_scale=(0.9, 1.0), mean=base.CLIP_MEAN, std=base.CLIP_STD)
    c.task.towers.image.update(kind="vit", variant=arg.size, pool="cls", pre_norm=True, patch_bias=False, **block)
    c.task.towers.text.update(kind="text", variant=text, vocab=49_408, causal=True, pool="eot", **block)
    c.task.losses = [{"kind": "infonce", "of": ["image", "text"]}]
    c.optim = {
        "optimizer": {"kind": "adamw", "b1": 0.9, "b2": 0.98, "eps": 1e-6},
        "lr": lr,
        "schedule": {"kind": "cosine", "warmup": 2_000},
        "weight_decay": 0.2,
        "clip_norm": None,
    }
    return base.smoke(c) if arg.smoke else c

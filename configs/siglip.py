r"""SigLIP (Zhai et al. 2023): two towers, a sigmoid for every pair of the global batch, with the published
hyperparameters.

    python -m bigcl.train --config configs/siglip.py:size=B/16,res=256,data=/data/pairs,tokenizer=siglip.json \
        --workdir runs/siglip

`data` and `tokenizer` as in configs/clip.py; the published vocabulary has 32,000 pieces. Attention pooling over the
patches, a bidirectional text tower pooled at its last token, no class token, no projection of the image. The batch is
32,768, which the paper finds enough. A step of B/16 at 224 pixels takes 256 v5e chips at least 0.2 s (`bigcl.plan`,
docs/performance.md), so that the 275,000 steps take them 15 hours or more.
"""

from configs import base


def get_config(arg=None):
    """Arguments: `size`, `res`, `batch`, `steps`, `data`, `tokenizer`, `smoke`."""
    arg = base.parse_arg(arg, size="B/16", res=224, batch=32_768, steps=275_000, data="", tokenizer="", smoke=False)

    c = base.image_text(arg, length=64, crop_scale=None)
    c.task.towers.image.update(
        kind="vit", variant=arg.size, pool="map", activation="gelu_tanh", remat="nothing_saveable"
    )
    c.task.towers.text.update(base.siglip_text(arg.size), projection_bias=True)
    c.task.losses = [{"kind": "sigmoid", "of": ["image", "text"]}]
    c.optim = {
        "optimizer": {"kind": "adamw", "b1": 0.9, "b2": 0.95},
        "lr": 1e-3,
        "schedule": {"kind": "cosine", "warmup": 10_000},
        "weight_decay": 0.1,  # times lr: the 1e-4 of the paper
        "clip_norm": 1.0,
    }
    return base.smoke(c) if arg.smoke else c

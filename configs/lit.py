r"""LiT (Zhai et al. 2022): a text tower learns to read what a locked, pretrained image tower sees.

    python -m bigcl.train --config configs/lit.py:size=B/16,init=runs/a,data=/data/pairs,tokenizer=t.json \
        --workdir runs/lit

`init` is the workdir of a run whose image tower has the same shape; it is taken over and locked: no gradient, no
optimizer state. `data` and `tokenizer` as in configs/clip.py.
"""

from configs import base


def get_config(arg=None):
    """Arguments: `size`, `res`, `batch`, `steps`, `init`, `data`, `tokenizer`, `smoke`."""
    arg = base.parse_arg(
        arg, size="B/16", res=224, batch=16_384, steps=55_000, init="", data="", tokenizer="", smoke=False
    )

    c = base.image_text(arg, length=16, crop_scale=(0.5, 1.0))
    c.task.towers.image.update(kind="vit", variant=arg.size, pool="map", activation="gelu_tanh")
    c.task.towers.text.update(base.siglip_text(arg.size))
    c.task.losses = [{"kind": "infonce", "of": ["image", "text"]}]
    c.task.init_scale = 10.0
    c.optim = {
        "optimizer": {"kind": "adafactor"},
        "lr": 1e-3,
        "schedule": {"kind": "cosine", "warmup": 10_000},
        "weight_decay": 0.1,  # times lr: the 1e-4 of the paper
        "freeze": ["towers/image/.*"],
    }
    c.checkpoint.update(init_from=arg.init or "(give init=RUN)", init_only=["towers/image/.*"])
    return base.smoke(c) if arg.smoke else c

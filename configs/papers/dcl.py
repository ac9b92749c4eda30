"""DCL (Yeh et al. 2022, "Decoupled Contrastive Learning"): without the positive in the denominator the gradient does
not vanish where negatives are few or easy.

New: the decoupled denominator and DCLW's weights, `bigcl/losses/dcl.py`; what they undo, `bigcl/evals/coupling.py`.

    python -m bigcl.reproduce dcl
    python -m bigcl.train --config configs/papers/dcl.py --workdir runs/dcl

The claim is the paper's analysis: the factor q by which NT-Xent's gradient is less than DCL's, of an encoder as it is
before training, is small and erratic in small batches; three runs of one step. Of three seeds, q is 0.81 to 0.83 in
batches of 4, with a variation of 0.35 to 0.37, and 0.996 in batches of 256, with one of 0.01. No margin is demanded of
the training by which `method` and `baseline` differ. All takes under a minute.
"""

from configs.papers import base

SIDE = 16


def get_config(arg=None):
    """Arguments: `method` (8 epochs of digits in batches of 16), `baseline` (the same by NT-Xent), `untrained` (what
    the claim is about), `paper` (200 epochs of ImageNet; `data`: a folder of ArrayRecord files with `image`), `smoke`,
    `seed=0`."""
    arg = base.parse_variant(arg, "method", "baseline", "untrained", "paper", data="")
    if arg.variant == "paper":
        return paper(arg)
    untrained = arg.variant == "untrained"
    c = base.small(arg, steps=1 if untrained else 712, batch=16, lr=0.0 if untrained else 1e-3)
    if arg.smoke:
        c.train.steps = 4
    digits = {split: {"kind": "digits", "split": split} for split in ("train", "test", "all")}
    views = [{"kind": "resize", "size": SIDE}, {"kind": "views", "views": {"a": augment(), "b": augment()}}]
    c.data = {"source": digits["train"], "transforms": [*views, {"kind": "keep", "keys": ["a", "b"]}]}
    small = {"width": 64, "depth": 2, "heads": 2, "patch": 4, "image_size": SIDE, "pool": "mean"}
    c.task = {
        "kind": "two_tower",
        "towers": {"a": {"kind": "vit", **small}, "b": "a"},
        "heads": {"local": {"kind": "mlp", "inputs": 64, "widths": [64, 64], "of": ["a", "b"]}},
        "losses": [{"of": ["local/a", "local/b"], "scale": 10.0, **loss(arg.variant)}],
    }
    plain = [{"kind": "resize", "size": SIDE}, {"kind": "keep", "keys": {"a": "image"}}]
    knn = {"kind": "knn", "train": digits["train"], "source": digits["test"], "item": "a", "ks": [5]}
    c.evals = {
        "coupling": {
            "kind": "coupling",
            "source": digits["all"],
            "transforms": views,
            "temperature": 0.1,
            "centre": True,
            "seed": arg.seed,
        },
        "knn": {**knn, "transforms": plain, "temperature": None},
    }
    return c


def paper(arg):
    """SimCLR's augmentation, and the paper's schedule, projector and temperature; a ViT-S/16 by AdamW in the place of a
    ResNet-50 by SGD."""
    side = 32 if arg.smoke else 224
    view = base.strong_view(side, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2)
    c = base.small(arg, steps=1_000_912, batch=256, lr=5e-4)
    c.train.log_every = 2 if arg.smoke else 100
    source = base.records(arg)
    if arg.smoke:
        c.train.batch, source = 16, {"kind": "synthetic", "spec": {"image": {"shape": [48, 48, 3], "dtype": "uint8"}}}
    keep = {"kind": "keep", "keys": ["a", "b"]}
    c.data = {"source": source, "transforms": [{"kind": "views", "views": {"a": view, "b": view}}, keep], "workers": 0}
    size = {"width": 32, "depth": 2, "heads": 2, "patch": 16} if arg.smoke else {"variant": "S/16"}
    width = size.get("width", 384)
    c.task = {
        "kind": "two_tower",
        "towers": {
            "a": {"kind": "vit", "image_size": side, "pool": "mean", "remat": "nothing_saveable", **size},
            "b": "a",
        },
        "heads": {"local": {"kind": "mlp", "inputs": width, "widths": [2048, 128], "of": ["a", "b"]}},
        "losses": [{"of": ["local/a", "local/b"], "scale": 10.0, **loss("method")}],
    }
    c.optim.update(schedule={"kind": "cosine", "warmup": 1 if arg.smoke else 50_046}, weight_decay=0.1)
    c.checkpoint = {} if arg.smoke else {"every": 5_000}
    return c


def loss(variant):
    """DCL, or NT-Xent."""
    return {"kind": "infonce", "within": True} if variant == "baseline" else {"kind": "dcl"}


def augment():
    """Views of a digit, white around it."""
    return [
        {"kind": "random_affine", "degrees": 15.0, "scale": [0.8, 1.2]},
        {"kind": "shift", "pixels": 2},
        {"kind": "corrupt", "corruption": "noise", "severity": 3},
        {"kind": "random_erasing", "probability": 1.0, "scale": [1 / 16, 1 / 16], "ratio": [1.0, 1.0], "fill": 255},
    ]


CLAIM = {
    "runs": ["untrained"],
    "seeds": [0, 1, 2],
    "demands": [
        {"metric": f"coupling/{metric}", "of": "untrained", "each_seed": True, **bound}
        for metric, bound in {
            "mean_rise": {"at_least": 1e-4},
            "variation_fall": {"at_least": 1e-4},
            "variation_ratio": {"at_least": 5.0},
            "gradient_error": {"at_most": 1e-6},
        }.items()
    ],
}

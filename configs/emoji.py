"""Emoji: 3,553 OpenMoji pictures and their names, 400 more held out. The quick start, and real image-text pretraining at laptop size.

    python -m bigcl.train --config configs/emoji.py --workdir runs/emoji
    python -m bigcl.train --config configs/emoji.py:smoke --workdir runs/smoke     # seconds, to see that everything works
"""

from ml_collections import ConfigDict

from bigcl.config import parse_arg


def get_config(arg=None):
    """Arguments: `smoke`."""
    arg = parse_arg(arg, smoke=False)
    source = {"kind": "emoji", "size": 48}
    train, test = {**source, "split": "train"}, {**source, "split": "test"}
    decode = [{"kind": "decode_image", "cache": 4096}]
    tokenize = [{"kind": "tokenize", "length": 17}]
    block = {"heads": 4, "scan": False, "embed_dim": 128}  # so few layers compile quickly, and run faster unrolled

    c = ConfigDict()
    c.seed = 0
    c.train = {"steps": 600, "batch": 256, "ema": 0.98}
    c.data = {"source": train, "transforms": [*decode, {"kind": "shift", "pixels": 3}, *tokenize]}
    c.tokenizer = {"kind": "bpe", "source": train, "vocab_size": 2048}
    c.task = {
        "kind": "two_tower",
        "towers": {
            "image": {"kind": "vit", "image_size": 48, "patch": 8, "width": 128, "depth": 3, "pool": "mean", **block},
            "text": {"kind": "text", "length": 17, "width": 128, "depth": 2, "pad_id": 0, **block},
        },
        "losses": [{"kind": "infonce", "of": ["image", "text"]}],
    }
    c.optim = {"optimizer": {"kind": "muon", "adam_lr": 0.2}, "lr": 1e-2, "weight_decay": 0.3}
    c.evals = {
        "retrieval": {"kind": "retrieval", "source": test, "transforms": [*decode, *tokenize], "query": "text", "item": "image"},
        "zero_shot": {
            "kind": "zero_shot", "source": test, "transforms": decode, "label": "group", "length": 17, "templates": ["{}"],
        },
    }  # fmt: skip
    c.checkpoint = {"every": 200, "best": "eval/retrieval/text_to_image/recall@1"}
    if arg.smoke:
        c.train.update(steps=20, batch=64)
        for tower in c.task.towers.values():
            tower.update(width=32, depth=1, heads=2)
    return c

"""Emoji: 3,553 OpenMoji pictures and their names, 400 more held out: image-text pretraining at laptop size.

    python -m bigcl.train --config configs/emoji.py --workdir runs/emoji
    python -m bigcl.train --config configs/emoji.py:smoke --workdir runs/smoke    # seconds, to see that all works

Five minutes on two CPU cores, and 63% of the held-out pictures are found by their names (text-to-image recall@1).

One caption in ten is not the name but the Unicode group ("Animals & Nature"), as alt-texts on the web are often no more
than a category; without them the groups would be unknown words to the prompts of the zero-shot evaluation.
"""

from ml_collections import ConfigDict

from bigcl.config import parse_arg


def get_config(arg=None):
    """Arguments: `smoke`."""
    arg = parse_arg(arg, smoke=False)
    size, length = 48, 17
    train, test = ({"kind": "emoji", "size": size, "split": split} for split in ("train", "test"))
    decode = {"kind": "decode_image", "cache": 4096}
    tokenize = {"kind": "tokenize", "length": length}
    # So few layers run faster unrolled, and what their gradient needs fits.
    tower = {"width": 128, "heads": 4, "embed_dim": 128, "scan": False, "remat": "none"}

    c = ConfigDict()
    c.seed = 0
    c.train = {"steps": 540, "batch": 256, "ema": 0.98}
    c.data = {"source": train}
    c.data.transforms = [
        decode,
        {"kind": "shift", "pixels": 3},
        {"kind": "format_text", "template": "{group}", "probability": 0.1},
        tokenize,
    ]
    c.tokenizer = {"kind": "bpe", "source": train, "vocab_size": 2048}
    c.task = {
        "kind": "two_tower",
        "towers": {
            "image": {"kind": "vit", "image_size": size, "patch": 8, "depth": 3, "pool": "mean", **tower},
            "text": {"kind": "text", "length": length, "depth": 2, "pad_id": 0, **tower},
        },
        "losses": [{"kind": "infonce", "of": ["image", "text"]}],
    }
    c.optim = {"optimizer": {"kind": "muon", "adam_lr": 0.2}, "lr": 1e-2, "weight_decay": 0.3}
    c.evals = {}
    c.evals.retrieval = {"kind": "retrieval", "source": test, "transforms": [decode, tokenize]}
    c.evals.zero_shot = {
        "kind": "zero_shot",
        "source": test,
        "transforms": [decode],
        "label": "group",
        "length": length,
    }
    c.checkpoint = {"every": 200, "best": "eval/retrieval/text_to_image/recall@1"}
    if arg.smoke:
        c.train.update(steps=20, batch=64)
        for part in c.task.towers.values():
            part.update(width=32, depth=1, heads=2)
    return c

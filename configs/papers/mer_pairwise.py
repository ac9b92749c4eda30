"""Modality-pairwise contrast (Franceschini et al. 2022, for multimodal emotion recognition): contrasting each pair of
modalities serves better than contrasting all of them side by side.

New: the mean over all pairs, and the authors' form of it with two views, `bigcl/losses/pairwise.py`.

    python -m bigcl.reproduce mer-pairwise
    python -m bigcl.train --config configs/papers/mer_pairwise.py --workdir runs/mer_pairwise

The claim is of digits in three modalities: the left half, the right half, and the sums of rows and columns. Seen, the
accuracy from 5 examples of a class, of five seeds: untrained 0.81, side by side 0.82, pairwise 0.85. 15 runs of five
seconds each.
"""

from configs.papers import base


def get_config(arg=None):
    """Arguments: `method`, `baseline` (two views of all modalities, side by side), `untrained`, `paper` (transformers
    for text and sound, GRUs for features of frames and landmarks; batch 32; `data`: a folder of ArrayRecord files with
    `text`, the ids of 50 words, `sound`, a log-mel picture [128, 128, 1], and 30 `frames` [30, 512] and `landmarks`
    [30, 136]), `smoke`, `seed=0`."""
    arg = base.parse_variant(arg, "method", "baseline", "untrained", "paper", data="")
    if arg.variant == "paper":
        return paper(arg)
    still = arg.variant == "untrained"
    c = base.small(arg, steps=1 if still else 500, batch=64, lr=0.0 if still else 2e-3)
    digits = {"kind": "digit_scenes", "scene": "halves", "held": 597, "seed": arg.seed}
    sizes = {"left": 32, "right": 32, "sums": 16}
    again = {f"{name}_2": name for name in sizes} if arg.variant == "baseline" else {}
    c.data = {
        "source": digits,
        "transforms": [
            {"kind": "keep", "keys": {**{name: name for name in sizes}, **again}},
            {"kind": "noise", "deviation": 0.1, "keys": [*sizes, *again]},
        ],
    }
    towers = {name: {"kind": "mlp", "inputs": n, "widths": [64, 32]} for name, n in sizes.items()}
    c.task = task(towers, again, width=32, hidden=64, scale=10.0)
    test = {"source": {**digits, "split": "test"}, "item": list(sizes), "standardize": True}
    c.evals = {"digits": {"kind": "few_shot", "train": digits, "shots": [5], "repeats": 10, **test}}
    return c


def task(towers, again, *, width, hidden, scale):
    """A head for each modality, and the contrast of what the heads say. again: names of second views."""
    head = {"kind": "mlp", "inputs": width, "widths": [hidden, width], "normalize": not again}
    heads = {f"{name}_head": {**head, "of": [name, f"{name}_2"] if again else [name]} for name in towers}
    of = [f"{name}_head/{name}" for name in towers] + [f"{name}_head/{view}" for view, name in again.items()]
    loss = {"kind": "concatenated" if again else "pairwise", "of": of, "scale": scale}
    return {
        "kind": "two_tower",
        "towers": {**towers, **again},
        "normalize": False,
        "heads": heads,
        "losses": [loss],
    }


def paper(arg):
    """CMU-MOSEI's four modalities over 30 frames; the rate falls to 0.9 of itself every 5 epochs of 16,000 clips. The
    batch stays at 32, which is a point of the paper."""
    out = {"embed_dim": 512}
    block = {"width": 32, "depth": 1, "heads": 2} if arg.smoke else {"width": 320, "depth": 6, "heads": 5}
    block = {**block, "mlp_width": 4 * block["width"]}
    towers = {
        "text": {"kind": "text", "vocab": 30_000, "length": 50, "causal": False, "pool": "mean", **block, **out},
        "sound": {"kind": "vit", "image_size": 128, "patch": 16, "channels": 1, **PLAIN, **block, **out},
        "frames": {"kind": "gru", "length": 30, "inputs": 512, "width": 32 if arg.smoke else 512, **out},
        "landmarks": {"kind": "gru", "length": 30, "inputs": 136, "width": 32 if arg.smoke else 256, **out},
    }
    spec = {
        "text": {"shape": [50], "dtype": "int32", "high": 30_000},
        "sound": {"shape": [128, 128, 1]},
        "frames": {"shape": [30, 512]},
        "landmarks": {"shape": [30, 136]},
    }
    c = base.small(arg, steps=100_000, batch=32, lr=1e-3, optimizer="sgd", momentum=0.9)
    c.data = base.arrays(arg, spec)
    c.task = task(towers, {}, width=512, hidden=1_024, scale=1 / 0.07)
    c.optim.update(weight_decay=1e-3, schedule={"kind": "stairs", "every": 2_500, "factor": 0.9, "warmup": 0})
    return c


PLAIN = {"mean": [0.5], "std": [0.5]}
CLAIM = {
    "runs": ["untrained", "baseline", "method"],
    "seeds": [0, 1, 2, 3, 4],
    "demands": [
        {"metric": "digits/accuracy@5", "minus": "baseline", "at_least": 0.02},
        {"metric": "digits/accuracy@5", "minus": "untrained", "at_least": 0.01},
    ],
}

"""What the recipes of published methods share: frames of an experiment of seconds, and of one at published scale."""

from ml_collections import ConfigDict

from bigcl.config import parse_variant
from configs import clip

__all__ = [
    "BERT",
    "across",
    "arrays",
    "emoji",
    "held_out",
    "parse_variant",
    "pictures",
    "published",
    "records",
    "small",
    "strong_view",
    "words",
]

BERT = {"causal": False, "pool": "first", "post_norm": True, "activation": "gelu"}
"""A text tower as BERT has it; padding is 0, or 1 for the RoBERTas. Sizes are those of the text tower's variants."""


def small(arg, *, steps, batch, lr, optimizer="adamw", **options):
    """A run of `steps` at a constant rate without weight decay. options: further keys of the optimizer."""
    c = ConfigDict({"seed": arg.seed})
    c.train = {"steps": steps, "batch": batch, "log_every": max(1, steps // 10), "profile": 0}
    c.optim = {
        "optimizer": {"kind": optimizer, **options},
        "lr": lr,
        "schedule": {"kind": "constant", "warmup": 0},
        "clip_norm": None,
    }
    if arg.smoke:
        c.train.update(steps=4, log_every=2)
    return c


def emoji(arg, *, steps, batch=128, lr=3e-3, width=64, length=16, source=None):
    """CLIP of emoji at 32 pixels and their names: a vision transformer of 16 patches and two blocks, a bag of tokens.

    width: of both towers and of the joint space. length: of texts in tokens; of the names, one in a thousand is longer.
    source: of the training data, the emoji that are not held out.
    """
    c = small(arg, steps=steps, batch=batch, lr=lr)
    c.optim.schedule = {"kind": "cosine", "warmup": c.train.steps // 20}
    c.optim.weight_decay = 0.1
    named = {"kind": "emoji", "size": 32}
    c.data = {"source": source or named, "transforms": [*pictures(), words(length=length)]}
    c.tokenizer = {"kind": "bpe", "source": named, "vocab_size": 2048}
    vit = {"kind": "vit", "image_size": 32, "patch": 8, "pool": "mean", "depth": 2, "heads": 4, "scan": False}
    c.task = {
        "kind": "two_tower",
        "towers": {
            "image": {**vit, "width": width, "embed_dim": width},
            "text": {"kind": "token_mlp", "length": length, "width": width, "head": [2 * width, width]},
        },
        "losses": [{"kind": "infonce", "of": ["image", "text"]}],
        "init_scale": 10.0,
    }
    return c


def pictures():
    """Pixels of pictures, moved by up to two."""
    return [{"kind": "decode_image", "cache": 4096}, {"kind": "shift", "pixels": 2}]


def words(key="text", length=16):
    """Tokens of a text."""
    return {"kind": "tokenize", "key": key, "length": length}


def held_out(kind, transforms=None, split="test", **options):
    """An evaluator of the 400 emoji that are held out."""
    transforms = [words()] if transforms is None else transforms
    source = {"kind": "emoji", "size": 32, "split": split}
    return {"kind": kind, "source": source, "transforms": [{"kind": "decode_image"}, *transforms], **options}


def arrays(arg, spec):
    """Examples that are arrays already: of `arg.data`, or noise of the same form (`spec`) for the smoke form."""
    if arg.smoke:
        return {"source": {"kind": "synthetic", "spec": spec}}
    return {"source": records(arg), "transforms": [{"kind": "keep", "keys": list(spec)}]}


def records(arg):
    """The ArrayRecord files of a folder."""
    return {"kind": "arrayrecord", "paths": arg.data or "(give data=FOLDER)"}


def strong_view(side, **jitter):
    """SimCLR's augmentation of a picture (Chen et al. 2020, appendix A). jitter: strengths of the colours."""
    return [
        {"kind": "random_resized_crop", "size": side, "scale": [0.08, 1.0]},
        {"kind": "random_flip"},
        {"kind": "color_jitter", "probability": 0.8, **jitter},
        {"kind": "grayscale", "probability": 0.2},
        {"kind": "gaussian_blur", "probability": 0.5},
    ]


def across(kind, pairs, inputs, widths):
    """Heads and losses of a self-supervised term between two sides, the mean over pairs (Fini et al. 2023).

    kind: "barlip" (Barlow Twins), "siamlip" (SimSiam), or "byolip" (BYOL; the task has the teacher).
    pairs: outputs of the two sides. inputs: their widths, by side. widths: of the projectors; the predictors of SimSiam
    and BYOL have all but the first of their layers.
    """
    one, other = inputs
    mlp = {"kind": "mlp", "batch_norm": True, "normalize": False}
    of = {side: [*dict.fromkeys(pair[i] for pair in pairs)] for i, side in enumerate(inputs)}
    heads = {
        f"own_{s}": {**mlp, "inputs": n, "widths": widths, "last_norm": True, "of": of[s]} for s, n in inputs.items()
    }
    own = [(f"own_{one}/{a}", f"own_{other}/{b}") for a, b in pairs]
    if kind == "barlip":
        loss = {"kind": "barlow", "standardize": False, "weight": 0.025 / len(pairs)}
        return heads, [{**loss, "of": list(pair), "name": f"{kind}/{i}"} for i, pair in enumerate(own)]
    guess = {**mlp, "inputs": widths[-1], "widths": widths[1:]}
    heads |= {f"guess_{s}": {**guess, "of": [f"own_{s}/{name}" for name in of[s]]} for s in inputs}
    by, loss = "teacher/" if kind == "byolip" else "", {"kind": "negative_cosine", "weight": 1 / (2 * len(pairs))}
    ways = [way for a, b in own for way in ([f"guess_{one}/{a}", by + b], [f"guess_{other}/{b}", by + a])]
    return heads, [{**loss, "of": way, "name": f"{kind}/{i}"} for i, way in enumerate(ways)]


def published(arg, texts=("text",), **options):
    """CLIP's recipe at published scale, with arguments of configs/clip.py; its data are `arg.data`, `arg.tokenizer`.

    texts: inputs that share the text tower, the first of them in place of `text`.
    """
    given = [f"{k}={v}" for k, v in {**options, "data": arg.data, "tokenizer": arg.tokenizer}.items()]
    c = clip.get_config(",".join([*given, *["smoke"] * arg.smoke]))
    c.seed, first = arg.seed, texts[0]
    towers = c.task.towers.to_dict()
    c.task.towers = {"image": towers["image"], first: towers["text"], **dict.fromkeys(texts[1:], first)}
    if arg.smoke:
        spec = c.data.source.spec.to_dict()
        c.data.source.spec = {"image": spec["image"], **dict.fromkeys(texts, spec["text"])}
    return c

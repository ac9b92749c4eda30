"""What the image-text recipes share: where pairs come from, how a picture is prepared, and how a recipe shrinks to
seconds."""

from ml_collections import ConfigDict

from bigcl.config import parse_arg
from bigcl.registry import ConfigError, nearest
from bigcl.towers.text import VARIANTS

__all__ = ["CLIP_MEAN", "CLIP_STD", "choose", "image_text", "parse_arg", "siglip_text", "smoke"]

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def choose(name, key, table):
    """An entry of a table of sizes, or an error that names the sizes there are."""
    if key not in table:
        raise ConfigError(f"config argument {name!r}: {key!r} is not published; {nearest(key, table)}")
    return table[key]


def siglip_text(size):
    """SigLIP's text tower for an image tower of this size: bidirectional, pooled at its last token, as wide as the
    image tower."""
    text = choose("size", size.partition("/")[0], {"B": "SigLIP-B", "L": "SigLIP-L", "So400m": "SigLIP-So400m"})
    return {
        "kind": "text",
        "variant": text,
        "vocab": 32_000,
        "causal": False,
        "pool": "last",
        "embed_dim": VARIANTS[text][0],
        "activation": "gelu_tanh",
        "remat": "nothing_saveable",
    }


def image_text(arg, *, length, crop_scale, mean=(0.5,) * 3, std=(0.5,) * 3):
    """Data, empty towers and checkpoints of a recipe on image-text pairs. crop_scale: area of random crops; None: the
    whole picture, squeezed."""
    name = (
        arg.data
        or "(give data=FOLDER or data=tfds:NAME: pairs of `image` and `text`, see python -m bigcl.data convert)"
    )
    tfds = name.startswith("tfds:")
    resize = (
        {"kind": "resize", "size": [arg.res, arg.res]}
        if crop_scale is None
        else {"kind": "random_resized_crop", "size": arg.res, "scale": crop_scale}
    )
    c = ConfigDict({"seed": 0, "train": {"steps": arg.steps, "batch": arg.batch, "log_every": 50}})
    c.data = {
        "source": {"kind": "tfds", "name": name.removeprefix("tfds:")}
        if tfds
        else {"kind": "arrayrecord", "paths": name},
        "transforms": [
            resize,  # which decodes no more of a JPEG than it needs
            {"kind": "tokenize", "length": length},
            {"kind": "keep", "keys": ["image", "text"]},
        ],
        "workers": 8,
    }
    c.tokenizer = {"kind": "tokenizers_json", "path": arg.tokenizer or "(give tokenizer=FILE: a tokenizer.json)"}
    c.task = {
        "kind": "two_tower",
        "towers": {"image": {"image_size": arg.res, "mean": mean, "std": std}, "text": {"length": length}},
    }
    c.mesh = {"fsdp": 1}
    c.checkpoint = {"every": 2_000, "keep_every": 50_000}
    return c


def smoke(c):
    """The same recipe at a size for seconds: tiny towers, synthetic data of the same form."""
    image, text = c.task.towers.image, c.task.towers.text
    image.update(variant=None, patch=16, width=32, depth=2, heads=2, image_size=32)
    text.update(variant=None, width=32, depth=2, heads=2, vocab=100)
    for tower in (image, text):
        if "embed_dim" in tower:
            tower.embed_dim = 32
    c.train.update(steps=4, batch=16, log_every=2)
    c.data = {
        "source": {
            "kind": "synthetic",
            "size": 64,
            "spec": {
                "image": {"shape": [32, 32, 3], "dtype": "uint8"},
                "text": {"shape": [text.length], "dtype": "int32", "high": 100},
            },
        }
    }
    c.tokenizer = None
    c.optim.schedule.update(warmup=1)
    c.checkpoint = {}
    return c

"""TeminAL (Sinha et al. 2024): clips of sounds in reversed order, as negatives, teach a model of sound and text what
came first.

New: the contrast with time-reversed partners, `bigcl/losses/temporal.py`.

    python -m bigcl.reproduce teminal
    python -m bigcl.train --config configs/papers/teminal.py --workdir runs/teminal

This is the method's stage B. Left out: its stage A, CLIP's loss on clips of one sound and of several, from which the
model comes that `paper` starts from; and sounds that overlap ("while"), which have no reversed partner.

The claim is of pairs of sounds that occur in one order alone, tested in both. Seen, of three seeds: the right order in
0.94 of the clips by InfoNCE, in all of them by the method. Six runs of 40 seconds.
"""

from configs.papers import base


def get_config(arg=None):
    """Arguments: `method`, `baseline` (InfoNCE of the pairs in order), `paper` (post-training of a ViT-S on
    spectrograms and RoBERTa; `init`: the workdir of the model that it starts from; `data`: a folder of ArrayRecord
    files with `audio` [128, 128, 1], a log-mel picture of two sounds, RoBERTa's ids `text` [77], and `audio_reversed`
    and `text_reversed`, the same in the other order), `smoke`, `seed=0`."""
    arg = base.parse_variant(arg, "method", "baseline", "paper", init="", data="")
    if arg.variant == "paper":
        return paper(arg)
    c = base.small(arg, steps=250, batch=32, lr=2e-3)
    c.data = {"source": {"kind": "sound_pairs", "seed": arg.seed}}
    size = {"kind": "gru", "width": 48, "embed_dim": 32}
    audio, text = {**size, "length": 8, "inputs": 16}, {**size, "length": 3, "vocab": 11}
    loss = {"kind": "temporal_nce", "of": ORDERED + REVERSED}
    if arg.variant == "baseline":
        loss = {"kind": "infonce", "of": ORDERED}
    c.task = task(audio, text, {**loss, "scale": 10.0})
    test = {"kind": "sound_pairs", "split": "test", "size": 1_000, "seed": arg.seed}
    c.evals = {"order": {"kind": "pairs", "source": test, "items": ["audio"], "item": "audio", "texts": TEXTS}}
    return c


def paper(arg):
    """Clips of 10 s as log-mel pictures [128, 128], texts of RoBERTa's size; the lowest layers stay as they were."""
    width = {"width": 32, "depth": 2, "heads": 2, "mlp_width": 64} if arg.smoke else {}
    vit = {"variant": None, "patch": 64} if arg.smoke else {"variant": "S/16"}
    bert = {"variant": "SigLIP-B", **base.BERT, "pad_id": 1, "norm_eps": 1e-5}
    spectrogram = {"kind": "vit", "image_size": 128, "channels": 1, "mean": [0.5], "std": [0.5], "embed_dim": 512}
    audio = {**spectrogram, **vit, **width}
    text = {"kind": "text", "vocab": 50_265, "length": 77, "embed_dim": 512, **bert, **width}
    c = base.small(arg, steps=10_000, batch=256, lr=1e-5)
    shapes = {"audio": {"shape": [128, 128, 1]}, "text": {"shape": [77], "dtype": "int32", "high": 50_265}}
    spec = {f"{key}{order}": shape for key, shape in shapes.items() for order in ("", "_reversed")}
    c.data = base.arrays(arg, spec)
    c.task = task(audio, text, {"kind": "temporal_nce", "of": ORDERED + REVERSED})
    c.optim.update(weight_decay=0.01, schedule={"kind": "cosine", "warmup": 0 if arg.smoke else 500})
    c.optim.freeze = ["towers/(audio|text)/(embed|position).*"]
    if arg.smoke:
        c.train.batch = 16
    else:
        c.checkpoint = {"init_from": arg.init or "(give init=RUN, the model before its post-training)"}
    return c


def task(audio, text, loss):
    """Two towers, which also read what is reversed."""
    towers = {"audio": audio, "text": text, "audio_reversed": "audio", "text_reversed": "text"}
    return {"kind": "two_tower", "towers": towers, "losses": [loss]}


ORDERED, REVERSED, TEXTS = ["audio", "text"], ["audio_reversed", "text_reversed"], ["text", "text_reversed"]
CLAIM = {
    "seeds": [0, 1, 2],
    "demands": [
        {"metric": "order/text_score", "at_least": 0.98},
        {"metric": "order/text_score", "minus": "baseline", "at_least": 0.03},
    ],
}

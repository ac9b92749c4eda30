"""Symile (Saporta et al. 2024): one contrast over all modalities at once finds what no pair of them holds.

New: the multilinear inner product of a whole tuple as the logit, `bigcl/losses/multilinear.py`.

    python -m bigcl.reproduce symile
    python -m bigcl.train --config configs/papers/symile.py --workdir runs/symile

The claim is the paper's own toy: c = a XOR b, of which no pair of the three tells anything; nine runs of some seconds
each. Symile was always right on the three seeds, also where a fifth of the inputs was missing; CLIP half of the time.
"""

from configs.papers import base

SHARE = 0.2
"""Of the inputs that are missing in training, each by itself, in the variant `missing`."""


def get_config(arg=None):
    """Arguments: `method`, `baseline` (CLIP between all pairs), `missing` (the method where inputs are missing in
    training), `paper` (Symile-M3; `data`: a folder of ArrayRecord files), `smoke`, `seed=0`."""
    arg = base.parse_variant(arg, "method", "baseline", "missing", "paper", data="")
    if arg.variant == "paper":
        return paper(arg)
    c = base.small(arg, steps=300, batch=64 if arg.smoke else 500, lr=0.1)
    missing = arg.variant == "missing"
    c.data = {"source": bits(arg.seed, 10_000, SHARE if missing else None)}
    pairs = [{"kind": "infonce", "of": list(pair)} for pair in ("ab", "bc", "ac")]
    c.task = {
        "kind": "two_tower",
        "towers": {m: {"kind": "mlp", "inputs": 2 if missing else 1, "widths": [16]} for m in "abc"},
        "losses": pairs if arg.variant == "baseline" else [{"kind": "multilinear", "of": ["a", "b", "c"]}],
        "init_scale": 0.74,  # exp(-0.3)
    }
    c.evals = {
        "xor": {
            "kind": "tuples",
            "source": bits(arg.seed + 1_000_000, 2_000, 0.0 if missing else None),  # all of it is there
            "find": "a",
            "given": ["b", "c"],
            "score": "sum" if arg.variant == "baseline" else "product",
        }
    }
    return c


def bits(seed, size, missing):
    """Data of the claim."""
    return {"kind": "xor", "size": size, "seed": seed, "missing": missing}


def paper(arg):
    """Symile-M3: linear maps of the features of a frozen Whisper and a frozen CLIP, and the embeddings and first block
    of XLM-R, to 8,192 dimensions; 24 epochs of 10 million triples. (The authors' towers end in a layer norm too.)"""
    width, hidden = (64, 32) if arg.smoke else (8_192, 1_024)
    vocab, length = (100, 8) if arg.smoke else (250_002, 128)
    c = base.small(arg, steps=234_375, batch=1_024, lr=1e-4)
    source = base.records(arg)
    if arg.smoke:
        c.train.batch = 16
        spec = {"audio": {"shape": [1280]}, "image": {"shape": [1024]}}
        source = {"kind": "synthetic", "spec": {**spec, "text": {"shape": [length], "dtype": "int32", "high": vocab}}}
    c.data = {"source": source}
    block = {"width": hidden, "depth": 1, "heads": hidden // 64 or 2, "mlp_width": 4 * hidden, "post_norm": True}
    text = {"kind": "text", "vocab": vocab, "length": length, "causal": False, "pool": "mean", "activation": "gelu"}
    c.task = {
        "kind": "two_tower",
        "towers": {
            "audio": {"kind": "mlp", "inputs": 1280, "widths": [width]},
            "image": {"kind": "mlp", "inputs": 1024, "widths": [width]},
            "text": {**text, **block, "pad_id": 1, "embed_dim": width, "projection_bias": True},
        },
        "losses": [{"kind": "multilinear", "of": ["audio", "image", "text"]}],
    }
    c.optim.weight_decay = 0.01
    c.checkpoint = {} if arg.smoke else {"every": 5_000}
    return c


CLAIM = {
    "runs": ["baseline", "method", "missing"],
    "seeds": [0, 1, 2],
    "demands": [
        {"metric": "xor/accuracy", "at_least": 0.97, "each_seed": True},
        {"metric": "xor/accuracy", "of": "baseline", "at_most": 0.75},
        {"metric": "xor/accuracy", "minus": "baseline", "at_least": 0.25},
        {"metric": "xor/accuracy", "of": "missing", "at_least": 0.95, "each_seed": True},
    ],
}

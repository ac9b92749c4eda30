"""Just Ask (Yang et al. 2021): an answer tower trained by contrast can answer with words that never were an answer,
which a classifier of the answers cannot.

New: the contrast with the batch's unique answers, `bigcl/losses/unique.py`; the transformer over video and question,
`bigcl/tasks/fusion.py`.

    python -m bigcl.reproduce just-ask
    python -m bigcl.train --config configs/papers/just_ask.py --workdir runs/just_ask

The claim is of clips of two-digit numbers, the answer being two words, of which 15 numbers occur in the test alone.
Both sides have weight decay; without it the method was right for 0.26 of their clips (three seeds), the classifier for
none. Six runs of 20 seconds.
"""

from configs.papers import base


def get_config(arg=None):
    """Arguments: `method`, `baseline` (a classifier of the 100 numbers on the same tower), `paper` (features of S3D and
    two towers of DistilBERT's size; `data`: a folder of ArrayRecord files with `video` [20, 1024] of S3D's features,
    the WordPiece ids `question` [20] and `answer` [10], and `answer_id`, a number for each answer), `smoke`,
    `seed=0`."""
    arg = base.parse_variant(arg, "method", "baseline", "paper", data="")
    if arg.variant == "paper":
        return paper(arg)
    classifier = arg.variant == "baseline"
    c = base.small(arg, steps=600, batch=64, lr=2e-3)
    clips = {"kind": "digit_scenes", "scene": "numbers", "seed": arg.seed}
    noise, answer = {"kind": "noise", "deviation": 0.1, "keys": ["video"]}, "choice" if classifier else "answer"
    c.data = {"source": clips, "transforms": [noise]}
    c.optim.weight_decay = 1.0
    words = {"kind": "token_mlp", "length": 2, "vocab": 10, "width": 48, "pool": "concat", "head": [96, 48]}
    relu = {"activation": "relu"}
    c.task = {
        "kind": "two_tower",
        "towers": {
            "video": {"kind": "mlp", "inputs": 384, "widths": [256, 48, *([100] if classifier else [])], **relu},
            answer: {"kind": "mlp", "inputs": 100, "widths": []} if classifier else {**words, **relu},  # 1 of 100
        },
        "losses": [
            {"kind": "classification", "of": ["video"], "with": {"labels": "number"}}
            if classifier
            else {"kind": "unique_contrast", "of": ["video", "answer"], "with": {"labels": "number"}}
        ],
        "normalize": False,
    }
    test = {"source": {**clips, "split": "test", "size": 300}, "transforms": [noise], "asking": "unseen"}
    c.evals = {"unseen": {"kind": "tuples", "find": answer, "given": ["video"], "score": "sum", **test}}
    return c


def paper(arg):
    """4,096 clips of HowToVQA69M a batch, of any videos (not 32 of each of 128): S3D's features of 20 s, question and
    answer by a DistilBERT each; without the masked language model."""
    size = {"width": 32, "depth": 1, "heads": 2, "mlp_width": 64} if arg.smoke else {}
    bert = {"kind": "text", "vocab": 30_522, "variant": "SigLIP-B", "depth": 6, **base.BERT, "pad_id": 0}
    bert |= {"remat": "nothing_saveable", **size}
    fusion = {"of": ["question", "video"], "lengths": [20, 20], "inputs": [size.get("width", 768), 1_024]}
    spec = {
        "video": {"shape": [20, 1_024]},
        "question": {"shape": [20], "dtype": "int32", "high": 30_522},
        "answer": {"shape": [10], "dtype": "int32", "high": 30_522},
        "answer_id": {"dtype": "int32", "high": 1_000_000},
    }
    c = base.small(arg, steps=168_000, batch=16 if arg.smoke else 4_096, lr=5e-5)  # 10 epochs
    c.data = base.arrays(arg, spec)
    c.task = {
        "kind": "fusion",
        "towers": {
            "question": {**bert, "length": 20},
            "video": {"kind": "token_mlp", "length": 20, "inputs": 1_024},
            "answer": {**bert, "length": 10, "embed_dim": 512, "projection_bias": True},
        },
        "fusion": {**fusion, "dropout": 0.1},
        "losses": [{"kind": "unique_contrast", "of": ["fused", "answer"], "with": {"labels": "answer_id"}}],
        "normalize": False,
    }
    c.optim.update(clip_norm=12.0, schedule={"kind": "cosine", "warmup": 0})
    return c


CLAIM = {
    "seeds": [0, 1, 2],
    "demands": [
        {"metric": "unseen/accuracy", "at_least": 0.5, "each_seed": True},
        {"metric": "unseen/accuracy", "of": "baseline", "at_most": 0.05},
    ],
}

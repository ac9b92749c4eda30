"""Mod-X (Ni et al. 2023): a model that goes on to new data keeps the similarities of the model before, and forgets
less.

New: the divergence of similarities, of rows that the old model gets right, `bigcl/losses/distillation.py`.

    python -m bigcl.reproduce mod-x
    python -m bigcl.train --config configs/papers/mod_x.py --workdir runs/mod-x

The claim is of two domains, of which the second is narrow and small, without any data of the first; nine runs of
seconds each. R@1 from image to text, means of three seeds: 0.97 and 0.40 before the second domain, 0.66 and 0.57 after
it by CLIP's loss alone, 0.88 and 0.46 by Mod-X. What it keeps of the first it pays for on the second.
"""

from configs import clip
from configs.papers import base

DOMAINS = {"a": "whole", "b": "narrow"}


def get_config(arg=None):
    """Arguments: `method`, `baseline` (the second domain by CLIP's loss alone), `before` (the first domain alone),
    `paper` (one phase of ViT-B/32; `data`, `tokenizer` as in configs/clip.py, `weights`: the phase before), `smoke`,
    `seed=0`."""
    arg = base.parse_variant(arg, "method", "baseline", "before", "paper", data="", tokenizer="", weights="")
    if arg.variant == "paper":
        return paper(arg)
    first = phase(arg, "a", 1_500, steps=600, lr=1e-3)
    if arg.variant == "before":
        return first
    second = phase(arg, "b", 200, steps=400, lr=3e-3)
    second.checkpoint = {"init_from": "{stage1}"}
    if arg.variant == "method":
        keep(second)
    return {"stages": {"stage1": first, "stage2": second}}


def phase(arg, domain, size, *, steps, lr):
    """Training on one domain."""
    c = base.small(arg, steps=steps, batch=64, lr=lr)

    def pairs(domain, size, **options):
        return {"kind": "domains", "domain": DOMAINS[domain], "size": size, "seed": arg.seed, **options}

    c.data = {"source": pairs(domain, size)}
    tower = {"kind": "mlp", "inputs": 48, "widths": [128, 32]}
    c.task = {
        "kind": "two_tower",
        "towers": {"image": tower, "text": tower},
        "losses": [{"kind": "infonce", "of": ["image", "text"]}],
    }
    c.evals = {d: {"kind": "retrieval", "source": pairs(d, 300, draw=1)} for d in DOMAINS}
    return c


def keep(c):
    """Adds what holds a phase to the model it starts from; of the published weights, 0.1 to 20, the scripts' own."""
    c.task.teacher = {}
    c.task.losses = [
        *c.task.losses,
        {
            "kind": "similarity_distillation",
            "of": ["image", "text"],
            "with": {"teacher_a": "teacher/image", "teacher_b": "teacher/text"},
            "weight": 20.0,
            "scale": 1.0,
            "screen": True,
            "reduction": "sum",
            "name": "distillation",
        },
    ]


def paper(arg):
    """35 epochs of one of the five parts of Flickr30K's 29,000 training pictures."""
    smoke = ",smoke" if arg.smoke else ""
    c = clip.get_config(f"size=B/32,batch=280,steps=725,data={arg.data},tokenizer={arg.tokenizer}{smoke}")
    c.seed = arg.seed
    c.optim.update(lr=1e-5, weight_decay=0.1, optimizer={"kind": "adamw"})
    if not arg.smoke:
        c.optim.schedule.warmup = 145
        c.checkpoint.init_from = arg.weights or "(give weights=RUN of the phase before)"
    keep(c)
    return c


CLAIM = {
    "runs": ["before", "baseline", "method"],
    "seeds": [0, 1, 2],
    "demands": [
        {"metric": "a/image_to_text/recall@1", "minus": "baseline", "at_least": 0.1},
        {"metric": ["a/image_to_text/recall@1", "b/image_to_text/recall@1"], "minus": "baseline", "at_least": 0.0},
        {"metric": "b/image_to_text/recall@1", "minus": "before", "at_least": 0.001},
    ],
}

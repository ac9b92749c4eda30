"""M3CoL (Kumar et al. 2024): mixtures of items, which belong to both of their sources in the other modality, and then
soft targets, bring together what shares a class, though no label is used.

New: the contrast of mixtures and the soft contrast after it, `bigcl/losses/mixup.py`.

    python -m bigcl.reproduce m3col
    python -m bigcl.train --config configs/papers/m3col.py --workdir runs/m3col

The claim is of digits whose upper and lower halves are the two modalities. Seen, the share of the same class among the
10 nearest of the other modality, of four seeds: InfoNCE 0.67, the method 0.69. Eight runs of half a minute.
"""

from configs import clip
from configs.papers import base

SWITCH = 0.33
"""Share of the run after which soft targets take the place of mixtures."""


def get_config(arg=None):
    """Arguments: `method`, `baseline` (InfoNCE), `mixup` (mixtures all the time), `paper` (ViT-B/16 and BERT with the
    classifiers; `data`, `tokenizer` as in configs/clip.py, the data with a `label` as well; `init`: the two towers that
    are fine-tuned), `smoke`, `seed=0`."""
    arg = base.parse_variant(arg, "method", "baseline", "mixup", "paper", data="", tokenizer="", init="")
    if arg.variant == "paper":
        return paper(arg)
    c = base.small(arg, steps=656, batch=128, lr=1e-3)  # 60 epochs
    digits = {"kind": "digit_scenes", "scene": "halves", "held": 397, "seed": arg.seed}
    c.data = {"source": digits, "transforms": [{"kind": "keep", "keys": ["upper", "lower"]}]}
    c.task = {
        "kind": "two_tower",
        "towers": {part: {"kind": "mlp", "inputs": 32, "widths": [128, 64]} for part in ("upper", "lower")},
        "losses": losses(arg.variant, "upper", "lower"),
        "normalize": arg.variant == "baseline",  # mixtures are of embeddings as they are
    }
    test = {"source": {**digits, "split": "test"}, "label": "label", "partner": False, "cosine": True, "ks": [10]}
    c.evals = {"classes": {"kind": "retrieval", "query": "upper", "item": "lower", **test}}
    return c


def losses(variant, a, b):
    """InfoNCE, or both directions of mixtures and of soft targets."""
    if variant == "baseline":
        return [{"kind": "infonce", "of": [a, b], "scale": 10.0}]
    pairs = {f"{a}_to_{b}": [a, b], f"{b}_to_{a}": [b, a]}
    terms = []
    for name, pair in pairs.items():
        mixtures = {"kind": "mixup", "of": pair, "scale": 10.0, "name": f"mixup/{name}"}
        if variant == "mixup":
            terms += [mixtures]
            continue
        terms += [{**mixtures, "when": [0.0, SWITCH]}]
        terms += [{"kind": "soft_clip", "of": pair, "scale": 8.0, "name": f"soft/{name}", "when": [SWITCH, 1.0]}]
    return terms


def paper(arg):
    """50 epochs of Food-101's 60,000 pairs of 101 classes: a classifier of each side, one of both, and a tenth of the
    contrast. Texts have 77 tokens (512), the rate falls along a cosine (when nothing improves)."""
    smoke = ",smoke" if arg.smoke else ""
    c = clip.get_config(f"size=B/16,batch=128,steps=23450,data={arg.data},tokenizer={arg.tokenizer}{smoke}")
    c.seed, towers, width = arg.seed, c.task.towers, 32 if arg.smoke else 768
    towers.text.update(**base.BERT, pad_id=0)
    for tower in (towers.image, towers.text):  # class tokens as they are
        del tower["embed_dim"]
    if arg.smoke:
        c.data.source.spec.label = {"dtype": "int32", "high": 101}
    else:
        towers.text.update(variant="SigLIP-B", vocab=30_522)
        c.data.transforms[-1]["keys"] = ["image", "text", "label"]
        c.checkpoint.init_from = arg.init or "(give init=RUN or FOLDER, whose towers are fine-tuned)"
    read = {"of_image": "image", "of_text": "text", "of_both": "image+text"}
    c.task.heads = {
        head: {"kind": "mlp", "inputs": width * (1 + ("+" in of)), "widths": [101], "normalize": False, "of": [of]}
        for head, of in read.items()
    }
    classes = {"kind": "classification", "with": {"labels": "label"}}
    c.task.losses = [
        *({**classes, "of": [f"{head}/{of}"]} for head, of in read.items()),
        *({**term, "weight": 0.1} for term in losses("method", "image", "text")),
    ]
    c.task.normalize = False
    c.optim.update(lr=5e-5, weight_decay=1e-4, lr_mults=[["heads/.*", 2.0], [".*", 1.0]])
    return c


SAME_CLASS = [f"classes/{way}/precision@10" for way in ("upper_to_lower", "lower_to_upper")]
CLAIM = {
    "seeds": [0, 1, 2, 3],
    "demands": [
        {"metric": SAME_CLASS, "minus": "baseline", "at_least": 0.015},
        {"metric": SAME_CLASS, "minus": "baseline", "at_least": 0.0, "each_seed": True},
    ],
}

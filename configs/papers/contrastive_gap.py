"""It's Not a Modality Gap (Fahim et al. 2024): CLIP's loss itself keeps the two towers' embeddings in separate regions,
and terms of uniformity and alignment bring them together.

New: the uniformity of pairs across modalities, `bigcl/losses/uniformity.py`.

    python -m bigcl.reproduce contrastive-gap
    python -m bigcl.train --config configs/papers/contrastive_gap.py --workdir runs/contrastive-gap

The claim is about the losses alone: 64 pairs of free embeddings, each side in a cone of its own, are moved by
gradients of the full batch; nine runs of seconds each. Of six seeds, the gap of CLIP alone is 0.85 to 1.15, that of
CUA at most 0.01 and that of CUAXU at most 0.04, uniformity is lower by 2.5, and each finds every pair.
"""

from configs import clip
from configs.papers import base

SIZE, WIDTH = 64, 32
"""Pairs and dimensions of the free embeddings."""


def get_config(arg=None):
    """Arguments: `method` (CLIP, uniformity within and across modalities, alignment: CUAXU), `cua` (without the
    uniformity across), `baseline` (CLIP alone), `paper` (ViT-B/32 fine-tuned on COCO; `data`, `tokenizer` as in
    configs/clip.py, `weights`: where to start from), `smoke`, `seed=0`."""
    arg = base.parse_variant(arg, "method", "cua", "baseline", "paper", data="", tokenizer="", weights="")
    if arg.variant == "paper":
        return paper(arg)
    c = base.small(arg, steps=400, batch=SIZE, lr=1e-2)
    source = {"kind": "arrays", "arrays": {m: list(range(SIZE)) for m in ("image", "text")}}
    c.data = {"source": source}
    c.task = {
        "kind": "two_tower",
        "towers": {m: {"kind": "table", "rows": SIZE, "width": WIDTH} for m in ("image", "text")},
        "losses": losses(arg.variant),
    }
    c.evals = {
        "geometry": {"kind": "geometry", "source": source},
        "retrieval": {"kind": "retrieval", "source": source, "ks": [1]},
    }
    return c


def losses(variant):
    """All of weight 1; the temperature of 0.01 is not learned."""
    both = {"of": ["image", "text"]}
    found = [{"kind": "infonce", "scale": 100.0, **both}]
    if variant != "baseline":
        found += [{"kind": "uniformity", **both}, {"kind": "alignment", **both}]
    if variant not in ("baseline", "cua"):
        found += [{"kind": "cross_uniformity", **both}]
    return found


def paper(arg):
    """9 epochs of COCO's 118,287 training pictures, in batches that are small on purpose."""
    smoke = ",smoke" if arg.smoke else ""
    c = clip.get_config(f"size=B/32,batch=64,steps=16634,data={arg.data},tokenizer={arg.tokenizer}{smoke}")
    c.seed, c.task.losses = arg.seed, losses(arg.variant)
    c.optim.update(lr=1e-6, weight_decay=0.1, optimizer={"kind": "adamw"}, schedule={"kind": "constant", "warmup": 0})
    if not arg.smoke:
        c.checkpoint.init_from = arg.weights or "(give weights=FOLDER, such as bigcl.convert writes)"
    return c


def below(metric, bound):
    """Both forms of the method stay below a bound, by seed."""
    return [{"metric": metric, "of": run, "at_most": bound, "each_seed": True} for run in ("cua", "method")]


CLAIM = {
    "runs": ["baseline", "cua", "method"],
    "seeds": [0, 1, 2],
    "demands": [
        {"metric": "geometry/modality_gap", "of": "baseline", "at_least": 0.5, "each_seed": True},
        *below("geometry/modality_gap", 0.1),
        *(
            {"metric": f"geometry/{m}/uniformity", "of": run, "minus": "baseline", "at_most": -1.5, "each_seed": True}
            for m in ("image", "text")
            for run in ("cua", "method")
        ),
        *(
            {"metric": f"retrieval/{way}/recall@1", "of": run, "at_least": 1.0, "each_seed": True}
            for way in ("image_to_text", "text_to_image")
            for run in ("baseline", "cua", "method")
        ),
    ],
}

"""The emoji that were held out: groups by prompts, retrieval, 14 languages, corruptions, the space of the embeddings.

python -m bigcl.evaluate --checkpoint runs/emoji --suite configs/evals/emoji.py --out results/emoji
"""

from configs.evals.common import pictures, side, text_length

CORRUPTIONS = ("noise", "blur", "pixelate", "jpeg", "contrast", "occlusion")


def get_suite(arg, inputs):
    """No arguments."""
    size, length = side(inputs), text_length(inputs)
    test, train = ({"kind": "emoji", "size": size, "split": split} for split in ("test", "train"))
    *steps, keep = pictures(inputs, cache=4096)
    tokenize, both = {"kind": "tokenize", "length": length}, {"kind": "keep", "keys": [*keep["keys"], "text"]}
    image, pairs = {"source": test, "transforms": steps}, {"source": test, "transforms": [*steps, tokenize, both]}
    probe = {**image, "train": train, "label": "group"}
    zero_shot = {"kind": "zero_shot", **image, "label": "group", "length": length}
    return {
        "groups": {**zero_shot, "prompts": "name/1"},
        "groups_prompted": {**zero_shot, "prompts": "emoji/1"},
        "retrieval": {"kind": "retrieval", **pairs},
        "languages": {"kind": "multilingual", **image, "length": length},
        "geometry": {"kind": "geometry", **pairs},
        "knn": {"kind": "knn", **probe},
        "linear_probe": {"kind": "linear_probe", **probe},
        "few_shot": {"kind": "few_shot", **probe},
        "clusters": {"kind": "clustering", **image, "label": "group"},
        "corruptions": {
            "kind": "robustness",
            "evaluator": zero_shot,
            "variants": {c: [{"kind": "corrupt", "corruption": c}] for c in CORRUPTIONS},
        },
        "backdoor": {
            "kind": "robustness",
            "evaluator": zero_shot,
            "variants": {"stamp": [{"kind": "stamp"}]},
            "target": "Flags",
        },
    }

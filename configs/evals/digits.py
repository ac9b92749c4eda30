"""The handwritten digits of scikit-learn, which need no download: by prompts, and by probes of the picture tower.

python -m bigcl.evaluate --checkpoint runs/emoji --suite configs/evals/digits.py --out results/digits
"""

from configs.evals.common import pictures, text_length


def get_suite(arg, inputs):
    """No arguments."""
    test, train = ({"kind": "digits", "split": split} for split in ("test", "train"))
    image = {"source": test, "transforms": pictures(inputs)}
    return {
        "digits": {"kind": "zero_shot", **image, "prompts": "digit/1", "length": text_length(inputs)},
        "digits_knn": {"kind": "knn", **image, "train": train},
        "digits_linear_probe": {"kind": "linear_probe", **image, "train": train},
        "digits_few_shot": {"kind": "few_shot", **image, "train": train},
        "digits_clusters": {"kind": "clustering", **image},
        "digits_value": {"kind": "regression", **image, "value": "label"},
        "digits_by_picture": {"kind": "retrieval", **image, "query": "image", "item": "image", "label": "label"},
    }

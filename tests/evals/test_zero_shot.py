"""Zero-shot classification against CLIP's procedure written out."""

import numpy as np
import pytest

from bigcl import registry
from bigcl.evals.zero_shot import resolve
from bigcl.registry import ConfigError
from tests.evals.reference import mesh, naive_rank, unit

CLASSES = ["cat", "dog", "emu", "fox", "gnu", "hen", "owl"]
TEMPLATES = ["{}", "a photo of a {}", "{} {}"]


class Letters:
    """A tokenizer of one id per letter."""

    def __call__(self, text, length):
        return np.array([[ord(c) for c in t[:length].ljust(length)] for t in text], np.int32)


def encode(batch):
    """Texts by a random table of letters and places, images as they are."""
    outputs = {}
    if "text" in batch:
        table = np.random.default_rng(0).standard_normal((24, 128, 16)).astype(np.float32)
        outputs["text"] = sum(table[i][batch["text"][:, i]] for i in range(24))
    if "image" in batch:
        outputs["image"] = batch["image"]
    return {k: v / np.linalg.norm(v, axis=1, keepdims=True) for k, v in outputs.items()}


def centres(classes=CLASSES, templates=TEMPLATES):
    rows = []
    for name in classes:
        each = [encode({"text": Letters()([t.replace("{}", name)], 24)})["text"][0] for t in templates]
        mean = np.mean(each, axis=0)
        rows.append(mean / np.linalg.norm(mean))
    return np.stack(rows)


def build(arrays, devices=8, **options):
    part = {
        "kind": "zero_shot",
        "source": {"kind": "arrays", "arrays": arrays},
        "templates": TEMPLATES,
        "length": 24,
        "batch": 8,
        **options,
    }
    return registry.build("evaluator", part, mesh=mesh(devices), tokenizer=Letters())


def data(rows=45):
    rng = np.random.default_rng(2)
    target = rng.integers(0, len(CLASSES), rows)
    image = centres()[target] + 1.2 * unit(rng, rows)
    missing = rng.random(rows) < 0.2
    return image.astype(np.float32), target, missing


@pytest.mark.parametrize("classes", [None, CLASSES])
@pytest.mark.parametrize("devices", [1, 8])
def test_equals_the_procedure_written_out(classes, devices):
    image, target, missing = data()
    names = [None if m else CLASSES[t] for t, m in zip(target, missing, strict=True)]
    evaluator = build({"image": image, "label": names}, devices, classes=classes, topk=[1, 2])
    numbers = evaluator.run(encode)
    image, target = image[~missing], target[~missing]
    rank = naive_rank(encode({"image": image})["image"], centres(), target, np.arange(len(CLASSES)))
    assert 0.1 < np.mean(rank == 1) < 0.9
    assert numbers == pytest.approx(
        {
            "accuracy@1": np.mean(rank == 1),
            "accuracy@2": np.mean(rank <= 2),
            "mean_per_class_accuracy": np.mean([np.mean(rank[target == c] == 1) for c in range(len(CLASSES))]),
            "examples": len(target),
            "unlabelled": missing.sum(),
        }
    )
    np.testing.assert_array_equal(evaluator.artifacts["index"], np.flatnonzero(~missing))
    np.testing.assert_array_equal(evaluator.artifacts["ranks"], rank)
    np.testing.assert_allclose(evaluator.artifacts["class_embeddings"], centres(), atol=1e-6)
    assert evaluator.artifacts["classes"] == CLASSES


def test_numbers_as_labels_count_in_the_classes():
    image, target, _ = data()
    by_number = build({"image": image, "label": target}, classes=CLASSES).run(encode)
    by_name = build({"image": image, "label": [CLASSES[t] for t in target]}, classes=CLASSES).run(encode)
    assert by_number == by_name


def test_classes_of_equal_prompts_are_all_wrong():
    """An encoder that does not read the prompt has no first class."""
    image, target, _ = data()

    def blind(batch):
        return {k: np.ones((len(v), 4), np.float32) / 2 for k, v in batch.items() if k in ("image", "text")}

    numbers = build({"image": image, "label": target}, classes=CLASSES).run(blind)
    assert numbers["accuracy@1"] == numbers["accuracy@5"] == 0


@pytest.mark.parametrize(
    "labels, classes, words",
    [
        ([None, None], None, "no example"),
        ([0, 1], None, "give the names"),
        (["cat", "dgo"], ["cat", "dog"], "did you mean 'dog'"),
        ([2], ["cat", "dog"], "label 2"),
    ],
)
def test_labels_that_do_not_fit(labels, classes, words):
    with pytest.raises(ConfigError, match=words):
        resolve(labels, classes)


@pytest.mark.parametrize("templates", [[], ["a photo of {"], ["{}", "a thing"]])
def test_templates_need_a_place_for_the_name(templates):
    with pytest.raises(ConfigError, match="templates"):
        build({"image": [0], "label": [0]}, templates=templates)

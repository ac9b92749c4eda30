"""Zero-shot classification against CLIP's procedure written out."""

import sys

import numpy as np
import pytest
import scipy.special

from bigcl import registry
from bigcl.data.sources.arrays import Arrays
from bigcl.evals.prompts import SETS, ClassPrompts, readable
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


def naive_calibration(cosines, target, scale=100.0, bins=15):
    """Bin by bin."""
    p = scipy.special.softmax(scale * cosines.astype(np.float64), axis=1)
    confidence, right, total = p.max(1), p.argmax(1) == target, 0.0
    for low in np.linspace(0, 1, bins + 1)[:-1]:
        inside = (confidence > low) & (confidence <= low + 1 / bins)
        if inside.any():
            total += abs(right[inside].mean() - confidence[inside].mean()) * inside.mean()
    return total


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
            "calibration_error": naive_calibration(encode({"image": image})["image"] @ centres().T, target),
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
        prompts(classes=classes).resolve(labels, Arrays({"label": labels}), "label")


def prompts(**options):
    options = {"classes": None, "templates": None, "prompts": "name/1", "length": 24, "query": "text", **options}
    return ClassPrompts("zero_shot", tokenizer=Letters(), batch=8, **options)


def test_classes_from_a_set_a_file_or_the_source(tmp_path):
    class Named(Arrays):
        def class_names(self, key):
            return ["hot_dog", "cat"] if key == "label" else None

    source = Named({"label": [1, 0], "other": ["b", "a"]})
    assert prompts().resolve([1, 0], source, "label")[0] == ["hot dog", "cat"]
    assert prompts().resolve(["b", "a"], source, "other")[0] == ["a", "b"]
    assert prompts(prompts="digit/1").resolve([9], source, "label")[0][9] == "nine"
    (tmp_path / "names.txt").write_text("left\n\nright\n")
    names, classes = prompts(classes=str(tmp_path / "names.txt")).resolve(["right", None, [0, 1]], source, "label")
    assert names == ["left", "right"] and [list(c) for c in classes] == [[1], [], [0, 1]]
    with pytest.raises(FileNotFoundError, match=r"no file .*nowhere"):
        prompts(classes="nowhere.txt")
    with pytest.raises(ConfigError, match="did you mean 'digit/1'"):
        prompts(prompts="digits/1")


def test_the_models_own_temperature_calibrates():
    image, target, _ = data()

    def model(batch):
        return encode(batch)

    model.scale = 7.5
    numbers = build({"image": image, "label": target}, classes=CLASSES).run(model)
    wanted = naive_calibration(encode({"image": image})["image"] @ centres().T, target, 7.5)
    assert numbers["calibration_error"] == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize(
    "name, words",
    [
        ("hot_dog", "hot dog"),
        ("001.Black_footed_Albatross", "Black footed Albatross"),
        ("/a/apartment_building/outdoor", "apartment building outdoor"),
        ("AnnualCrop", "Annual Crop"),
        ("BMW X5 SUV 2007", "BMW X5 SUV 2007"),
    ],
)
def test_readable_names(name, words):
    assert readable(name) == words


@pytest.mark.parametrize("name", SETS)
def test_prompt_sets(name):
    """Each is versioned, and each template has one place for the name and no word left to fill in."""
    templates, classes = SETS[name]
    assert name.rpartition("/")[2].isdigit() and len(set(templates)) == len(templates)
    assert all(t.count("{}") == 1 and "{" not in t.replace("{}", "") for t in templates)
    assert classes is None or len(set(classes)) == len(classes)


@pytest.mark.parametrize("templates", [[], ["a photo of {"], ["{}", "a thing"]])
def test_templates_need_a_place_for_the_name(templates):
    with pytest.raises(ConfigError, match="templates"):
        build({"image": [0], "label": [0]}, templates=templates)


class TestOpenAIsPrompts:
    """The set that comes with open_clip; tests/interop compares it with the real one."""

    @pytest.fixture
    def package(self, tmp_path, monkeypatch):
        folder = tmp_path / "open_clip"
        folder.mkdir()
        (folder / "__init__.py").write_text("raise AssertionError('imported')")
        monkeypatch.delitem(sys.modules, "open_clip", raising=False)
        monkeypatch.setattr(sys, "path", [str(tmp_path)])
        return folder / "zero_shot_metadata.py"

    def build(self, **options):
        arrays = {"image": np.ones((2, 4), np.float32), "label": [0, 1]}
        part = {"kind": "zero_shot", "source": {"kind": "arrays", "arrays": arrays}, "length": 24, **options}
        return registry.build("evaluator", part, mesh=mesh(1), tokenizer=Letters())

    def test_names_and_templates(self, package):
        package.write_text(
            "OPENAI_IMAGENET_TEMPLATES = (lambda c: f'a bad {c}.', lambda c: f'{c}')\n"
            "IMAGENET_CLASSNAMES = ('tench', 'great '\n 'white shark')\n"
        )
        asked = self.build(prompts="openai_imagenet/1").prompts
        assert asked.templates == ("a bad {}.", "{}") and tuple(asked.classes) == ("tench", "great white shark")

    @pytest.mark.parametrize("text", ["IMAGENET_CLASSNAMES = ('tench',)", "OPENAI_IMAGENET_TEMPLATES = (str,)"])
    def test_another_open_clip(self, package, text):
        package.write_text(text + "\n")
        with pytest.raises(ImportError, match="open_clip"):
            self.build(prompts="openai_imagenet/1")

    def test_without_open_clip(self, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ImportError, match="pip install open_clip_torch"):
            self.build(prompts="openai_imagenet/1")

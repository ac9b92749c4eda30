"""Suites: kept, skipped, tabulated; and the suites of the repository on shapes of a model."""

import csv
import json
import pathlib
import sys

import numpy as np
import pytest

from bigcl import registry
from bigcl.evals.embedding import unit
from bigcl.evaluate import locate, suite
from bigcl.interop import proof
from bigcl.interop.model import Model, Preprocessing, blank, save
from bigcl.pretrained import Pretrained
from bigcl.registry import ConfigError
from bigcl.suite import Inputs, read_suite, run_suite
from configs.evals import common
from tests.evals.reference import mesh
from tests.test_two_processes import PROCESSES, together

ROOT = pathlib.Path(__file__).parent.parent
SUITES = sorted(p for p in (ROOT / "configs/evals").glob("*.py") if p.stem != "common")


def encode(batch):
    """Pictures by their pixels, and by a part of them as if it were a text."""
    x = batch["image"].reshape(len(batch["image"]), -1).astype(np.float32) - 128
    return {"image": unit(x), "text": unit(x[:, :96].repeat(2, 1))}


def members():
    """An evaluator of each way of sharing work between devices, on a number of rows that does not divide."""
    test, train = ({"kind": "digits", "split": split} for split in ("test", "train"))
    image, probe = {"source": test, "batch": 100}, {"source": test, "train": test, "batch": 100}
    return {
        "pictures": {"kind": "retrieval", **image, "query": "image", "label": "label"},
        "pairs": {"kind": "retrieval", **image},
        "absent": {"kind": "retrieval", "source": {"kind": "tfds", "name": "cifar10", "data_dir": "/nowhere"}},
        "neighbours": {"kind": "knn", **image, "train": train},
        "clusters": {"kind": "clustering", **image, "starts": 2},
        "probe": {"kind": "linear_probe", **probe, "strengths": [1e-4]},
        "few": {"kind": "few_shot", **probe, "shots": [3], "repeats": 1},
        "value": {"kind": "regression", **image, "value": "label"},
        "space": {"kind": "geometry", **image},
    }


def test_kept_skipped_and_tabulated(tmp_path):
    members = {
        "pictures": {"kind": "retrieval", "source": {"kind": "digits"}, "query": "image", "label": "label"},
        "absent": {"kind": "retrieval", "source": {"kind": "tfds", "name": "cifar10", "data_dir": "/nowhere"}},
    }
    calls = []

    def counting(batch):
        calls.append(1)
        return encode(batch)

    options = {"mesh": mesh(8), "tokenizer": None, "say": lambda line: None}
    found, skipped, _ = run_suite(members, counting, tmp_path, model={"step": 3}, **options)
    assert calls and set(found) == {"pictures"} and found["pictures"]["image_to_image/recall@1"] > 0.5
    assert [s.name for s in skipped] == ["absent"] and "tfds build cifar10" in skipped[0].reason
    table = (tmp_path / "results.md").read_text()
    assert "| pictures | image_to_image/recall@1 |" in table and "tfds build cifar10" in table
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert {r["metric"]: float(r["value"]) for r in rows} == found["pictures"]
    record = json.loads((tmp_path / "results.json").read_text())
    assert record["results"]["pictures"] == found["pictures"] and "absent" in record["skipped"]

    calls.clear()
    assert run_suite(members, counting, tmp_path, model={"step": 3}, **options)[0] == found and not calls
    run_suite(members, counting, tmp_path, model={"step": 4}, **options)
    assert calls  # other weights
    calls.clear()
    members["pictures"]["ks"] = [2]
    again, _, _ = run_suite(members, counting, tmp_path, model={"step": 4}, **options)
    assert calls and "image_to_image/recall@2" in again["pictures"]  # another question


def test_after_a_failure_the_others_still_run(tmp_path, capsys):
    members = {
        "broken": {"kind": "ordering", "source": {"kind": "digits"}, "value": "nope"},
        "pictures": {"kind": "retrieval", "source": {"kind": "digits"}, "query": "image", "label": "label"},
    }
    for part in members.values():
        part.setdefault("item", "image")
    options = {"mesh": mesh(1), "tokenizer": None, "say": lambda line: None}
    found, _, failed = run_suite(members, encode, tmp_path, model={}, **options)
    assert list(found) == ["pictures"] and [f.name for f in failed] == ["broken"] and "nope" in failed[0].reason
    assert "## Failed" in (tmp_path / "results.md").read_text() and "Traceback" in capsys.readouterr().err
    assert "nope" in json.loads((tmp_path / "results.json").read_text())["failed"]["broken"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model": {}, "part": {}}', '{"numbers": {"a": "b"}}'])
def test_a_broken_file_of_a_member_is_run_again(tmp_path, text):
    (tmp_path / "members").mkdir()
    (tmp_path / "members/pictures.json").write_text(text)
    members = {"pictures": {"kind": "retrieval", "source": {"kind": "digits"}, "query": "image", "label": "label"}}
    found, _, _ = run_suite(members, encode, tmp_path, model={}, mesh=mesh(1), tokenizer=None, say=lambda line: None)
    assert found["pictures"] == json.loads((tmp_path / "members/pictures.json").read_text())["numbers"]


def test_a_missing_package_is_skipped(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    (tmp_path / "rows.jsonl").write_text('{"label": "a"}\n{"label": "b"}\n')
    members = {"clusters": {"kind": "clustering", "source": {"kind": "jsonl", "paths": str(tmp_path / "rows.jsonl")}}}
    options = {"mesh": mesh(1), "tokenizer": None, "say": lambda line: None}
    _, skipped, failed = run_suite(members, encode, tmp_path, model={}, **options)
    assert not failed and "bigcl[evals]" in skipped[0].reason


def test_two_processes_give_the_table_of_one(tmp_path):
    """And what they have done is kept when they are started again."""
    folder = together("suite", tmp_path)
    found, skipped, _ = run_suite(members(), encode, tmp_path / "one", model={}, mesh=mesh(4), tokenizer=None)
    record = json.loads((folder / "results.json").read_text())
    assert [s.name for s in skipped] == ["absent"] == list(record["skipped"]) and len(found) == 8
    for name, numbers in found.items():
        assert record["results"][name] == pytest.approx(numbers, rel=1e-4, abs=1e-5), name
    said = [json.loads((folder / f"said/{i}.json").read_text()) for i in range(PROCESSES)]
    assert said[0]["found"] == said[1]["found"] == said[1]["again"] == record["results"]
    assert [s["embedded"] for s in said] == [[s["embedded"][0], 0] for s in said] and said[1]["embedded"][0] > 0


@pytest.mark.parametrize("path", SUITES, ids=[p.stem for p in SUITES])
def test_suites_of_the_repository(path):
    """Every part is checked against its constructor."""
    members = read_suite(str(path), Inputs({"image": (48, 48, 3), "text": (17,)}))
    assert members and f"--suite {path.relative_to(ROOT)}" in path.read_text()
    with pytest.raises(ConfigError, match="needs a model with the input 'image'"):
        read_suite(str(path), Inputs({"audio": (100,)}))


def test_a_suite_that_does_not_fit(tmp_path):
    file = tmp_path / "mine.py"
    with pytest.raises(FileNotFoundError, match="no file"):
        read_suite(str(file), Inputs({}))
    file.write_text("def get_suite(arg, inputs):\n    return {'../x': {'kind': 'knn'}}\n")
    with pytest.raises(ConfigError, match="cannot be the name of a file"):
        read_suite(str(file), Inputs({}))
    file.write_text(
        "def get_suite(arg, inputs):\n    return {arg: {'kind': 'retreival', 'source': {'kind': 'digits'}}}\n"
    )
    with pytest.raises(ConfigError, match=r"mine\.a: unknown evaluator 'retreival'; did you mean 'retrieval'"):
        read_suite(f"{file}:a", Inputs({}))
    file.write_text("x = 1\n")
    with pytest.raises(ConfigError, match="has no get_suite"):
        read_suite(str(file), Inputs({}))


def test_converted_weights_are_evaluated(tmp_path):
    """What no run of bigcl made has no training to restore."""
    tower = {"kind": "vit", "image_size": 8, "patch": 4, "width": 16, "depth": 1, "heads": 2}
    task, shapes = blank({"kind": "two_tower", "towers": {"image": tower}, "losses": []})
    rng = np.random.default_rng(0)
    arrays = {k: rng.normal(scale=0.3, size=s).astype(np.float32) for k, s in shapes.items()}
    save(Model(task, arrays, None, Preprocessing.of([], task["towers"]["image"])), tmp_path / "model")
    (tmp_path / "mine.py").write_text(
        "def get_suite(arg, inputs):\n"
        "    assert inputs['image'] == (8, 8, 3)\n"
        "    how = [{'kind': 'decode_image'}, {'kind': 'resize', 'size': [8, 8]}]\n"
        "    source = {'kind': 'digits'}\n"
        "    return {'knn': {'kind': 'knn', 'source': source, 'train': source, 'transforms': how, 'label': 'label'}}\n"
    )
    suite(tmp_path / "model", None, str(tmp_path / "mine.py"), tmp_path / "out")
    record = json.loads((tmp_path / "out/results.json").read_text())
    assert record["model"]["step"] == 0 and record["results"]["knn"]


PATCHES = {"kind": "naflex", "patch": 4, "tokens": 9, "method": "bilinear"}


@pytest.mark.parametrize(
    ("tower", "how"),
    [
        ({"pool": "map"}, Preprocessing(16, "squash", "bicubic")),
        ({"pool": "map"}, Preprocessing(16, "squash", "bilinear")),
        ({"pool": "cls", "mean": [0.4, 0.5, 0.6]}, Preprocessing(16, "shortest", "bicubic")),
        ({"pool": "cls"}, Preprocessing(16, "shortest", "bicubic", edge=18)),
        ({"pool": "map", "naflex": True}, Preprocessing(16, "naflex", "bilinear", patch=4, tokens=9)),
    ],
    ids=["siglip", "bilinear", "clip", "cropped", "naflex"],
)
def test_a_suite_sees_pictures_as_the_model_was_made_to(tower, how, tmp_path):
    """Wide pictures, by the suite's transforms and command, against each picture by itself through the model."""
    image = {"kind": "vit", "image_size": 16, "patch": 4, "width": 16, "depth": 1, "heads": 2, **tower}
    task, shapes = blank({"kind": "two_tower", "towers": {"image": image}, "losses": []})
    rng = np.random.default_rng(0)
    arrays = {k: rng.normal(scale=0.5, size=s).astype(np.float32) for k, s in shapes.items()}
    record = Preprocessing.of(how.transforms(), task["towers"]["image"])
    model = Model(task, arrays, None, record)
    save(model, tmp_path / "model")

    opened = Pretrained.open(tmp_path / "model")
    parts = common.pictures(Inputs(opened.shapes, opened.transforms))
    wide = [proof.painting((20, 52), seed) for seed in range(6)]
    steps = [registry.build("transform", part) for part in parts]
    rows = []
    for picture in wide:
        example = {"image": np.asarray(picture)}
        for step in steps:
            example = step(example, rng)
        rows.append(example)
    found = opened.encode({k: np.stack([row[k] for row in rows]) for k in rows[0]})["image"]
    expected = model.encode({k: v for k, v in record(wide).items() if k != "image_grid"})["image"]
    np.testing.assert_allclose(found, expected, atol=1e-5)

    (tmp_path / "mine.py").write_text(
        "from configs.evals.common import pictures\n"
        "def get_suite(arg, inputs):\n"
        "    part = {'source': {'kind': 'digits', 'split': 'test'}, 'transforms': pictures(inputs)}\n"
        "    return {'clusters': {'kind': 'clustering', **part}}\n"
    )
    suite(tmp_path / "model", None, str(tmp_path / "mine.py"), tmp_path / "out")
    assert json.loads((tmp_path / "out/results.json").read_text())["results"]["clusters"]


@pytest.mark.parametrize("path", SUITES, ids=[p.stem for p in SUITES])
def test_suites_of_the_repository_for_patches(path):
    """What goes with the patches is kept."""
    shapes = {"image": (16, 48), "image_mask": (16,), "image_shape": (2,), "text": (17,)}
    members = read_suite(str(path), Inputs(shapes, [PATCHES]))
    transforms = [part["transforms"] for part in members.values() if "transforms" in part]
    assert transforms and all(PATCHES in parts for parts in transforms)
    kept = [set(part["keys"]) for parts in transforms for part in parts[-1:] if part["kind"] == "keep"]
    assert kept and all({"image", "image_mask", "image_shape"} <= keys for keys in kept)


def test_pictures_of_a_training_alone_are_not_taken_for_a_suite():
    """What is random in them is none of a suite's."""
    crop = {"kind": "random_resized_crop", "size": 48}
    assert Inputs({}, [crop]).pictures is None and Inputs({}, []).pictures is None
    assert Inputs({}, [{"kind": "tokenize", "length": 3}, {"kind": "resize", "size": [4, 4]}]).pictures == [
        {"kind": "resize", "size": [4, 4]}
    ]


def test_a_checkpoint_is_found_from_any_of_its_folders(tmp_path):
    (tmp_path / "checkpoints/540").mkdir(parents=True)
    (tmp_path / "config.json").write_text("{}")
    assert locate(tmp_path, None) == (tmp_path, None)
    assert locate(tmp_path / "checkpoints", 3) == (tmp_path, 3)
    assert locate(tmp_path / "checkpoints/540", None) == (tmp_path, 540)

"""The suites of the repository by the command, on a model that was trained a little."""

import json
import pathlib
import sys

import pytest

from bigcl import evaluate
from bigcl.config import plain
from bigcl.train import run
from configs.emoji import get_config

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    config = plain(get_config("smoke"))
    config["train"].update(steps=4)
    folder = tmp_path_factory.mktemp("run")
    run({**config, "evals": {}}, folder)
    return folder


def ask(monkeypatch, capsys, workdir, suite, out):
    """What the command prints, and its results."""
    argv = ["evaluate", "--checkpoint", str(workdir), "--suite", str(ROOT / suite), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", argv)
    evaluate.main()
    return capsys.readouterr().out, json.loads((out / "results.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "emoji"])
def test_a_suite_runs_and_is_kept(name, workdir, tmp_path, monkeypatch, capsys):
    suite = f"configs/evals/{name}.py"
    _, found = ask(monkeypatch, capsys, workdir, suite, tmp_path / "out")
    assert len(found["results"]) > 5 and not found["skipped"] and not found["failed"]
    numbers = [v for part in found["results"].values() for v in part.values()]
    assert len(numbers) > 40 and None not in numbers
    monkeypatch.chdir(workdir.parent)
    said, again = ask(monkeypatch, capsys, pathlib.Path(workdir.name), suite, tmp_path / "out")
    assert said.count(": kept") == len(found["results"]) and again == found


def test_what_is_not_there_is_listed_with_its_command(workdir, tmp_path, monkeypatch, capsys):
    suite = f"configs/evals/zero_shot.py:data_dir={tmp_path / 'nowhere'}"
    said, found = ask(monkeypatch, capsys, workdir, suite, tmp_path / "out")
    assert set(found["results"]) == {"digits"} and len(found["skipped"]) > 15
    assert "tfds build food101" in found["skipped"]["food101"]
    assert "tfds build coco_captions" in found["skipped"]["coco_captions"]
    assert f"{len(found['skipped'])} skipped" in said and "## Skipped" in (tmp_path / "out/results.md").read_text()

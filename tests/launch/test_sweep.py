"""Sweeps: members, names, what is resumed; and one that is really run."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from bigcl.data.cache import cache_root
from launch import sweep
from launch.job import JobError

ROOT = pathlib.Path(__file__).parents[2]
FILE = """
from configs.emoji import get_config

def sweep(add):
    for value in {values}:
        add({{"optim.lr": value}})
"""


def write(tmp_path, values):
    """A sweep file over learning rates."""
    file = tmp_path / "grid.py"
    file.write_text(FILE.format(values=values))
    return str(file)


def test_the_sweeps_of_this_repository_can_be_read(tmp_path):
    for file in sorted((ROOT / "configs/sweeps").glob("*.py")):
        members = sweep.read_sweep(f"{file}:smoke", tmp_path)
        assert len({m.workdir for m in members}) == len(members) > 1
    assert members[0].arguments() == (
        f"--workdir={tmp_path}/lr=0.003,weight_decay=0.0",
        "--config.optim.lr=0.003",
        "--config.optim.weight_decay=0.0",
    )


def test_names_tell_members_apart_and_are_folders():
    added = [{"a.lr": 1, "b.lr": 2, "size": "B/16"}, {"size": "../../x y"}, {}]
    assert sweep.member_names(added) == ["a.lr=1,b.lr=2,size=B-16", "size=..-..-x-y", "default"]


@pytest.mark.parametrize(
    "values, message", [("(1, 1)", "added twice: lr=1"), ("([1],)", "expected a number"), ("()", "adds nothing")]
)
def test_sweeps_that_make_no_sense(tmp_path, values, message):
    with pytest.raises(JobError, match=message):
        sweep.read_sweep(write(tmp_path, values), tmp_path)


@pytest.mark.parametrize(
    "row, finished",
    [({"step": 10, "eval/r/x": 1.0}, True), ({"step": 10}, False), ({"step": 9, "eval/r/x": 1.0}, False)],
)
def test_finished_is_trained_and_evaluated(tmp_path, row, finished):
    member = sweep.Member("m", {}, tmp_path)
    assert not member.finished()
    (tmp_path / "config.json").write_text(json.dumps({"train": {"steps": 10}, "evals": {"r": {}}}))
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    assert member.finished() == finished


SUGGEST = """
def suggest(trial):
    return {"optim.lr": trial.suggest_float("lr", 1e-4, 1.0, log=True)}
"""


def write_result(member, value, steps=4):
    """What a finished member leaves."""
    member.workdir.mkdir(parents=True)
    options = {"best": "eval/r/x", "best_is": "lowest"}
    (member.workdir / "config.json").write_text(
        json.dumps({"train": {"steps": steps}, "evals": {"r": {}}, "checkpoint": options})
    )
    (member.workdir / "metrics.jsonl").write_text(json.dumps({"step": steps, "eval/r/x": value}) + "\n")


@pytest.mark.parametrize("parallel", [1, 3])
def test_a_search_learns_and_goes_on_where_it_was(tmp_path, monkeypatch, parallel):
    """Of a bowl with its bottom at 0.01; every fifth member fails the first time."""
    pytest.importorskip("optuna").logging.set_verbosity(30)
    (tmp_path / "bowl.py").write_text(SUGGEST)
    ran = []

    def train(members, job, parallel):
        for member in members:
            ran.append(member.name)
            if len(ran) % 5:
                write_result(member, abs(np.log10(member.overrides["optim.lr"] / 0.01)))
        return True

    monkeypatch.setattr(sweep, "run_local", train)
    root = tmp_path / "sweep"
    command = [str(tmp_path / "bowl.py"), "--workdir", str(root), f"--parallel={parallel}"]
    assert sweep.main([*command, "--search=40"]) == 1
    first, scores = list(ran), [sweep.Member("", {}, root / name).score() for name in ran]
    assert len(set(first)) == 40 and [i for i, s in enumerate(scores) if s is None] == list(range(4, 40, 5))
    found = [-s for s in scores if s is not None]
    assert np.median(found[-10:]) < np.median(found[:10])  # the first ten are drawn at random
    ran.clear()
    assert sweep.main([*command, "--search=4"]) == 0 and not ran
    sweep.main([*command, "--search=6"])
    assert ran == [first[4]]
    assert set(json.loads((root / "sweep.json").read_text())["members"]) >= set(first)


def test_a_search_of_a_file_that_suggests_nothing(tmp_path):
    pytest.importorskip("optuna")
    with pytest.raises(SystemExit, match="expects suggest"):
        sweep.main([write(tmp_path, "(1,)"), "--workdir", str(tmp_path / "w"), "--search=2"])


@pytest.mark.slow
def test_a_failed_member_is_listed_and_run_again(tmp_path):
    """Of two members one cannot be started; the next call runs it alone, and the report shows both."""
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(cache_root() / "xla-tests")}
    root = tmp_path / "sweep"
    tiny = ["--config.train.batch=16", "--config.train.steps=2"]
    command = [sys.executable, "-m", "launch.sweep", write(tmp_path, "(0.01, 0.02)") + ":smoke", "--workdir", str(root)]
    root.mkdir()
    (root / "lr=0.02").mkdir()
    (root / "lr=0.02" / "checkpoints").touch()  # a file where the run needs a folder
    first = subprocess.run([*command, "--", *tiny], cwd=ROOT, env=env, capture_output=True, text=True)
    assert first.returncode == 1 and "1 of 2 not finished" in first.stdout, first.stdout + first.stderr
    (root / "lr=0.02" / "checkpoints").unlink()
    before = (root / "lr=0.01" / "metrics.jsonl").stat().st_mtime_ns
    second = subprocess.run([*command, "--", *tiny], cwd=ROOT, env=env, capture_output=True, text=True)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "launch: lr=0.02" in second.stdout and "launch: lr=0.01" not in second.stdout
    assert (root / "lr=0.01" / "metrics.jsonl").stat().st_mtime_ns == before
    report = [sys.executable, "-m", "bigcl.report", "--sweep", str(root)]
    assert subprocess.run(report, cwd=ROOT, env=env).returncode == 0
    assert "<b>2</b> of them trained to the end" in (root / "report.html").read_text()

"""Sweeps: members, names, what is resumed; and one that is really run."""

import json
import os
import pathlib
import subprocess
import sys

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

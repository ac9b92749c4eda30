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


def test_what_ended_with_an_error_is_named_with_its_log(tmp_path, capfd):
    """At once, and in the list at the end; even if it had not begun."""
    file = write(tmp_path, "(0.01, 0.02)")
    root = tmp_path / "sweep"
    command = [file, "--workdir", str(root), "--parallel=2", "--", "--config.no_such=1"]
    assert sweep.main(command) == 1
    output = capfd.readouterr().out
    for name in ("lr=0.01", "lr=0.02"):
        assert f"launch: {name} ended with status 1, see {root}/{name}/log.txt" in output
        assert f"not begun           {name}    {root}/{name}/log.txt" in output
        assert "no_such" in (root / name / "log.txt").read_text()
    assert sweep.main([file, "--workdir", str(tmp_path / "other"), "--status"]) == 1
    assert "log.txt" not in capfd.readouterr().out


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


PROGRAM = """#!/bin/bash
case "${{0##*/}}" in
  squeue) {queue} ;;
  sbatch) cat >{folder}/submitted; echo 17 ;;
esac
"""


def programs(tmp_path, monkeypatch, queue):
    """Commands of Slurm that play a queue, which prints what `queue` does, and keep what is submitted."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("squeue", "sbatch"):
        (folder / name).write_text(PROGRAM.format(queue=queue, folder=tmp_path))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def on_slurm(tmp_path, *words):
    """The command of a sweep of three members, of which the second is finished."""
    root = tmp_path / "sweep"
    if not root.exists():
        write_result(sweep.Member("lr=0.2", {}, root / "lr=0.2"), 1.0)
    own = ["--on=slurm", "--parallel=2", "--chips=1", "--name=grid", "--sbatch=--partition=a100", *words]
    return [write(tmp_path, "(0.1, 0.2, 0.3)"), "--workdir", str(root), *own, "--", "--config.train.steps=4"]


def chosen(tmp_path, script, i):
    """The command of an element of the array, as bash expands it."""
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    (tmp_path / "srun").write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    env = {**os.environ, "SLURM_ARRAY_TASK_ID": str(i), "SLURM_JOB_ID": "1", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    return subprocess.run(["bash"], input=script, env=env, capture_output=True, text=True, check=True).stdout.split()


def test_on_slurm_the_members_that_are_left_are_one_array(tmp_path, capsys):
    """Rendered; which member each element is, is what bash makes of the script."""
    assert sweep.main(on_slurm(tmp_path, "--dry-run")) == 0
    script = capsys.readouterr().out
    for line in ("--array=0-1%2", "--job-name=grid", "--partition=a100", f"--output={tmp_path}/sweep/slurm-%A_%a.log"):
        assert f"#SBATCH {line}\n" in script
    for i, rate in enumerate(("0.1", "0.3")):
        words = chosen(tmp_path, script, i)
        assert words[-2:] == [f"--workdir={tmp_path}/sweep/lr={rate}", f"--config.optim.lr={rate}"]
        assert "--config.train.steps=4" in words and str(tmp_path / "grid.py") in words
    assert not (tmp_path / "sweep" / "sweep.json").exists() and not (tmp_path / "sweep" / "slurm.sh").exists()


def test_an_array_is_submitted_once(tmp_path, monkeypatch, capsys):
    """Driven through programs named as Slurm's commands."""
    programs(tmp_path, monkeypatch, f"[[ -e {tmp_path}/submitted ]] && echo 17 R")
    assert sweep.main(on_slurm(tmp_path)) == 0
    assert "launch: 2 runs, array job 17" in capsys.readouterr().out
    assert (tmp_path / "submitted").read_text() == (tmp_path / "sweep" / "slurm.sh").read_text()
    assert len(json.loads((tmp_path / "sweep" / "sweep.json").read_text())["members"]) == 3
    with pytest.raises(SystemExit, match=r"error: grid is in the queue already:\n17 R"):
        sweep.main(on_slurm(tmp_path))


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

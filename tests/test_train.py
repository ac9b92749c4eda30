"""The command, as a person uses it: interrupted and resumed, run again, evaluated, and with a key misspelt."""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from unittest.mock import MagicMock

import jax
import numpy as np
import pytest

from bigcl import stages, train
from bigcl.data.cache import cache_root
from bigcl.experiment import Experiment
from bigcl.log import read_rows
from bigcl.notice import Interrupted, Notice
from bigcl.report import load_classes, load_gallery
from bigcl.trainer import Trainer
from bigcl.watchdog import Watchdog
from tests.faults import tiny

ROOT = pathlib.Path(__file__).parent.parent
TINY = [
    "--config",
    "configs/emoji.py:smoke",
    "--config.train.steps=12",
    "--config.train.log_every=2",
    "--config.train.batch=16",
]
ENV = {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": str(cache_root() / "xla-tests"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    "GLIBC_TUNABLES": "",  # no second start of the interpreter
}


def command(workdir, *arguments, **env):
    """`python -m bigcl.train` in a process of its own."""
    arguments = [sys.executable, "-m", "bigcl.train", *TINY, "--workdir", str(workdir), *arguments]
    return subprocess.Popen(
        arguments,
        cwd=ROOT,
        env={**ENV, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process, timeout=300):
    """Exit status and output."""
    try:
        output = process.communicate(timeout=timeout)[0]
    finally:
        process.kill()
    return process.returncode, output


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run from beginning to end."""
    workdir = tmp_path_factory.mktemp("whole")
    status, output = finish(command(workdir))
    assert status == 0, output
    return workdir, output


def numbers(workdir):
    """What the log says of the training itself: everything but speed."""
    volatile = ("ms_per_step", "pairs_per_second", "tflops", "mfu", "input_wait_fraction", "eta_seconds")
    volatile += ("save_seconds", "save_host_bytes")
    return [{k: v for k, v in row.items() if k not in volatile} for row in read_rows(workdir / "metrics.jsonl")]


def test_every_row_has_telemetry(whole):
    for row in read_rows(whole[0] / "metrics.jsonl"):
        assert 0 <= row["image_text/accuracy"] <= 1 <= row["image_text/effective_negatives"] <= 15
        assert -4 < row["image/uniformity"] <= 0 and -1 <= row["image_text/negative_similarity"] <= 1


def test_the_report_has_classes_and_heat_maps(whole):
    workdir, _ = whole
    gallery, classes = load_gallery(workdir / "gallery.npz"), load_classes(workdir / "classes.npz")
    assert len(gallery.heat) == 12 and all(heat.shape == (6, 6) and np.ptp(heat) > 0 for heat in gallery.heat.values())
    assert max(np.abs(heat).max() for heat in gallery.heat.values()) < 1 + 1e-5
    assert len(classes.labels) == read_rows(workdir / "metrics.jsonl")[-1]["eval/zero_shot/examples"]
    assert len(classes.pictures) == len(classes.worst) > 0
    assert {"Classes", "Where in the image", "Training health"} <= set(
        re.findall("<h2>(.*?)</h2>", (workdir / "report.html").read_text())
    )


def test_leaves_everything_in_the_workdir(whole):
    workdir, output = whole
    assert {"config.json", "metrics.jsonl", "tensorboard", "checkpoints", "tokenizer.json", "report.html"} <= {
        p.name for p in workdir.iterdir()
    }
    assert list((workdir / "profile").rglob("*.xplane.pb"))
    assert output.strip().splitlines()[-1] == f"report: {workdir / 'report.html'}"
    assert "CC BY-SA 4.0" in (workdir / "report.html").read_text()
    rows = read_rows(workdir / "metrics.jsonl")
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10, 12] and all("loss" in row for row in rows)
    wanted = {
        "loss",
        "learning_rate",
        "temperature",
        "pairs_per_second",
        "tflops",
        "input_wait_fraction",
        "batch_hash",
        "skipped_steps",
    }
    assert wanted <= set(rows[0])
    assert re.fullmatch("[0-9a-f]{16}", rows[0]["batch_hash"])
    assert 0 <= rows[-1]["eval/zero_shot/accuracy@1"] <= 1
    assert 0 <= rows[-1]["eval/retrieval/text_to_image/recall@1"] <= 1


def test_interrupted_it_saves_and_the_same_command_goes_on(whole, tmp_path):
    process = command(tmp_path, "--config.data.workers=1")
    deadline = time.monotonic() + 300
    while not read_rows(tmp_path / "metrics.jsonl"):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    status, output = finish(process)
    assert status == 130, output
    assert "run the same command again" in output and "python -m bigcl.train --config configs/emoji.py:smoke" in output
    status, output = finish(command(tmp_path))
    assert status == 0 and "resuming after step" in output, output
    assert numbers(tmp_path) == numbers(whole[0])


def test_a_finished_run_says_so_and_changes_nothing(whole):
    before = (whole[0] / "metrics.jsonl").read_bytes()
    status, output = finish(command(whole[0]))
    assert status == 0 and "is finished" in output
    assert (whole[0] / "metrics.jsonl").read_bytes() == before


def test_a_run_that_ended_before_its_report_is_finished_first(whole, tmp_path):
    """Killed after the last checkpoint, in the middle of what follows it."""
    shutil.copytree(whole[0], tmp_path / "run")
    (tmp_path / "run" / "report.html").unlink()
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    rows[-1] = {k: v for k, v in rows[-1].items() if not k.startswith("eval/")}
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, output = finish(command(tmp_path / "run"))
    assert status == 0 and "trained to" not in output, output
    assert (tmp_path / "run" / "report.html").exists()
    assert read_rows(tmp_path / "run" / "metrics.jsonl") == read_rows(whole[0] / "metrics.jsonl")


def test_a_resume_that_does_not_fit_changes_nothing(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    status, output = finish(command(tmp_path / "run", "--config.task.towers.text.width=64", "--config.train.steps=14"))
    assert status == 1 and "does not fit this config" in output and "Traceback" not in output, output
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == before


def test_evaluate_gives_the_numbers_of_the_run(whole):
    arguments = [sys.executable, "-m", "bigcl.evaluate", "--workdir", str(whole[0]), "--json"]
    before = sorted(whole[0].rglob("*"))
    result = subprocess.run(arguments, cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=300, check=True)
    assert sorted(whole[0].rglob("*")) == before
    logged = {k: v for row in read_rows(whole[0] / "metrics.jsonl") for k, v in row.items() if k.startswith("eval/")}
    assert json.loads(result.stdout) == {"step": 12, **logged}


def test_an_earlier_step_is_evaluated_as_in_the_run(tmp_path):
    config = {**tiny.get_config().to_dict(), "seed": 1}
    config["train"]["steps"], config["evals"]["retrieval"]["every"] = 20, 10
    train.run(config, tmp_path, report=False)
    arguments = [sys.executable, "-m", "bigcl.evaluate", "--workdir", str(tmp_path), "--json", "--step", "10"]
    env = {**ENV, "JAX_NUM_CPU_DEVICES": "8"}
    result = subprocess.run(arguments, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=True)
    rows = {r["step"]: {k: v for k, v in r.items() if "eval/" in k} for r in read_rows(tmp_path / "metrics.jsonl")}
    assert rows[10] and rows[10] != rows[20] and json.loads(result.stdout) == {"step": 10, **rows[10]}


def test_what_a_run_begins_with(tmp_path):
    """Its own latest checkpoint, before another's parameters, before fresh ones; an average begins with them."""

    def begin(workdir, **checkpoint):
        config = {**tiny.get_config().to_dict(), **checkpoint}
        with Watchdog(workdir, 0) as watchdog:
            trainer = Trainer(Experiment(**stages.resolved(config)), workdir, watchdog)
            return trainer, trainer.restore_or_init()

    other, state = begin(tmp_path / "other", seed=7)
    other.checkpoints.save(3, state)
    other.checkpoints.close()
    _, fresh = begin(tmp_path / "fresh")
    take = {"checkpoint": {"init_from": str(tmp_path / "other"), "init_only": ["towers/image/.*"]}}
    own, begun = begin(tmp_path / "run", **take)
    for name, value in begun.params.items():
        source = state if name.startswith("towers/image/") else fresh
        assert (value == source.params[name]).all() and (begun.ema[name] == value).all(), name
    changed = begun.replace(params={k: v + 1 for k, v in begun.params.items()})
    own.checkpoints.save(5, changed)
    own.checkpoints.close()
    _, resumed = begin(tmp_path / "run", **take)
    assert all((v == changed.params[k]).all() for k, v in resumed.params.items())


def test_after_a_resume_several_processes_ask_one_another_as_often(monkeypatch):
    """However many steps the run has behind it."""
    start = 1_000_000
    trainer = object.__new__(Trainer)
    trainer.notice, trainer.watchdog, trainer.checkpoints = Notice(), MagicMock(), MagicMock()
    trainer.deadlines, trainer.experiment = MagicMock(), MagicMock()
    trainer.experiment.train.steps = trainer.steps = start + 2000

    def step_function(state, batch):
        time.sleep(0.002)
        step_function.calls += 1
        if step_function.calls == 5:
            trainer.notice.keep(signal.SIGTERM, None)
        return state, {}

    step_function.calls = 0
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr("bigcl.trainer.AGREE", 0.05)
    monkeypatch.setattr("bigcl.trainer.multihost_utils.process_allgather", lambda x: np.stack([x, 0 * x]))
    with pytest.raises(Interrupted, match="stopped after step 10000"):
        trainer.loop(step_function, MagicMock(step=start), MagicMock(), [])
    assert 5 <= step_function.calls < 2000


def test_arguments_that_a_recipe_needs_are_asked_for(tmp_path):
    arguments = [sys.executable, "-m", "bigcl.train", "--config", "configs/lit.py", "--workdir", str(tmp_path / "run")]
    result = subprocess.run(arguments, cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=300)
    asked = [line.split("=")[0].strip() for line in result.stderr.splitlines()[1:]]
    assert result.returncode == 1 and sorted(asked) == ["give data", "give init", "give tokenizer"], result.stderr
    assert "bigcl.data convert" in result.stderr and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "override, message",
    [
        ("--config.optim.lrr=1", 'error: config: no key \'lrr\'. Did you mean "lr" instead of "lrr"?'),
        ("--config.opti.lr=1", "error: config: no key 'opti'. Did you mean"),
        ("--config.task.towers.image.pool=mena", "config.task.towers.image.pool: expected"),
        ("--config.optim.optimizer.kind=munon", "did you mean 'muon'"),
    ],
)
def test_a_bad_override_is_named(tmp_path, override, message):
    status, output = finish(command(tmp_path / "run", override))
    assert status == 1 and message in output and "Traceback" not in output
    assert not (tmp_path / "run").exists()


def test_two_processes_train_as_one(whole, tmp_path):
    """2 processes x 2 devices: the same batches, the same losses to rounding, the same evaluation."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        address = f"localhost:{s.getsockname()[1]}"
    env = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_NUM_CPU_DEVICES": "2"}
    processes = [command(tmp_path, JAX_PROCESS_ID=str(i), **env) for i in range(2)]
    outputs = [finish(p) for p in processes]
    assert [status for status, _ in outputs] == [0, 0], outputs[0][1] + outputs[1][1]
    one, two = numbers(whole[0]), numbers(tmp_path)
    assert [r.get("batch_hash") for r in one] == [r.get("batch_hash") for r in two]
    np.testing.assert_allclose(
        [r["loss"] for r in two if "loss" in r], [r["loss"] for r in one if "loss" in r], rtol=1e-3
    )
    assert two[-1]["eval/zero_shot/examples"] == one[-1]["eval/zero_shot/examples"]

"""The local back end, with small programs in place of training, and once with training itself."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from bigcl.data.cache import cache_root
from bigcl.host import REQUEUE
from bigcl.log import read_rows
from launch import local
from launch.job import JobError

ROOT = pathlib.Path(__file__).parents[2]


def program(tmp_path, text):
    """A command that runs `text`; `mark(name)` in it counts its calls by files."""
    file = tmp_path / "program.py"
    head = f"""
import os, pathlib, signal, sys, time
me = int(os.environ.get("JAX_PROCESS_ID", 0))
folder = pathlib.Path({str(tmp_path)!r})
def mark(name):
    n = len(list(folder.glob(f"{{name}}-{{me}}-*")))
    (folder / f"{{name}}-{{me}}-{{n}}").touch()
    return n
"""
    file.write_text(head + text)
    return [sys.executable, str(file)]


def test_two_processes_train(tmp_path):
    """The command of docs/launch.md."""
    arguments = "-n 2 --chips 2 -- --config configs/emoji.py:smoke --config.train.steps=4 --config.train.log_every=2"
    command = [sys.executable, "launch/local.py", *arguments.split(), "--workdir", str(tmp_path / "run")]
    caches = {
        "JAX_COMPILATION_CACHE_DIR": str(cache_root() / "xla-tests"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }
    env = {**os.environ, "JAX_PLATFORMS": "cpu", **caches}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 x cpu, 2 process(es)" in done.stdout and (tmp_path / "run" / "report.html").exists()
    assert [row["step"] for row in read_rows(tmp_path / "run" / "metrics.jsonl")] == [2, 4]


def counts(tmp_path, name):
    """How often each process marked `name`."""
    return [len(list(tmp_path.glob(f"{name}-{i}-*"))) for i in range(2)]


def test_processes_find_each_other_and_their_output_is_told_apart(tmp_path, capfd):
    environments = local.environments(2, 3, {"A": "b"})
    command = program(tmp_path, "print(*(os.environ[k] for k in ('JAX_COORDINATOR_ADDRESS', 'A')))")
    assert local.run(command, environments, 0) == 0
    lines = sorted(capfd.readouterr().out.split("\n")[:-1])
    assert [line.split()[0] for line in lines] == ["[0]", "[1]"] and all(line.endswith(" b") for line in lines)
    assert lines[0].split()[1] == lines[1].split()[1] and lines[0].split()[1].startswith("localhost:")
    assert [(e["JAX_NUM_PROCESSES"], e["JAX_PROCESS_ID"]) for e in environments] == [("2", "0"), ("2", "1")]


@pytest.mark.parametrize("restarts, status, starts", [(1, 3, 2), (2, 0, 3)])
def test_a_crash_restarts_all_as_often_as_allowed(tmp_path, restarts, status, starts):
    """Process 1 crashes twice; process 0 would wait for ever."""
    text = """
n = mark("start")
if n < 2:
    while not (folder / f"start-0-{n}").exists() or not me:
        time.sleep(0.05)
    sys.exit(3)
"""
    assert local.run(program(tmp_path, text), local.environments(2, 0, {}), restarts, grace=5) == status
    assert counts(tmp_path, "start") == [starts, starts]


def test_a_preemption_is_no_crash_and_the_others_may_save(tmp_path):
    text = f"""
if mark("start") < 2:
    time.sleep(0 if me else 0.5)
    mark("saved")
    sys.exit({REQUEUE})
"""
    assert local.run(program(tmp_path, text), local.environments(2, 0, {}), restarts=0) == 0
    assert counts(tmp_path, "start") == [3, 3] and counts(tmp_path, "saved") == [2, 2]


def test_a_process_killed_by_a_signal_is_a_crash_and_what_ignores_the_end_is_killed(tmp_path):
    text = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
mark("start")
while me == 1 and not list(folder.glob("start-0-*")):
    time.sleep(0.05)
os.kill(os.getpid(), signal.SIGKILL) if me else time.sleep(600)
"""
    assert local.run(program(tmp_path, text), local.environments(2, 0, {}), restarts=0, grace=0.5) == 137


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, "time"])
def test_asked_to_stop_it_stops_all_once(tmp_path, how):
    """One signal to the launcher is one signal to each process, and none is started again."""
    text = f"""
def save(number, frame):
    mark("saved")
    sys.exit({REQUEUE})
for s in (signal.SIGINT, signal.SIGTERM):
    signal.signal(s, save)
mark("start")
time.sleep(600)
"""
    command = program(tmp_path, text)
    seconds = 15 if how == "time" else None
    call = f"local.run({command!r}, local.environments(2, 0, {{}}), 5, seconds={seconds})"
    source = f"import sys; from launch import local; sys.exit({call})"
    launcher = subprocess.Popen([sys.executable, "-c", source], cwd=ROOT)
    try:
        while counts(tmp_path, "start") != [1, 1] and launcher.poll() is None:
            time.sleep(0.05)
        if how != "time":
            launcher.send_signal(how)
        assert launcher.wait(timeout=60) == REQUEUE
    finally:
        launcher.kill()
    assert counts(tmp_path, "saved") == [1, 1] and counts(tmp_path, "start") == [1, 1]


def test_asked_to_stop_before_all_are_there_it_stops_them():
    group = local.Group([sys.executable, "-c", "import time; time.sleep(600)"], local.environments(2, 0, {}))
    group.stopped = 1  # by a signal that came between two attempts
    assert group.run() == 128 + signal.SIGTERM


def test_gpus_are_shared_out(monkeypatch):
    gpus = {"CUDA_VISIBLE_DEVICES": "4,5,6,7"}
    shares = local.share_devices(2, 0, gpus)
    assert shares == [{"CUDA_VISIBLE_DEVICES": "4,5"}, {"CUDA_VISIBLE_DEVICES": "6,7"}]
    assert local.share_devices(2, 1, gpus)[1] == {"CUDA_VISIBLE_DEVICES": "5"}
    assert local.share_devices(2, 3, {**gpus, "JAX_PLATFORMS": "cpu"}) == [{"JAX_NUM_CPU_DEVICES": "3"}] * 2
    with pytest.raises(JobError, match="this machine has 4 GPU"):
        local.share_devices(5, 0, gpus)


def test_errors_are_sentences():
    command = [sys.executable, "launch/local.py", "--image", "i", "--", "--config", "c", "--workdir", "w"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 2 and "run this command inside of one" in done.stderr and "Traceback" not in done.stderr

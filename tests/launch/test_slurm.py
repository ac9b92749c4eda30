"""The Slurm back end: its script as text, and, marked `slurm`, on a real Slurm with two nodes."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import orbax.checkpoint as ocp
import pytest

from bigcl.data.cache import cache_root
from bigcl.log import read_rows
from launch import slurm
from launch.job import Job

ROOT = pathlib.Path(__file__).parents[2]
TRAIN = ("--config", "configs/emoji.py:smoke", "--workdir", "runs/a")
TIMEOUT = 600.0
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": str(cache_root() / "xla-tests"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    "GLIBC_TUNABLES": "",
}


def directives(script):
    """The `#SBATCH` lines, as a dict."""
    return dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", script, re.MULTILINE))


def check_syntax(script):
    """bash reads the script to its end."""
    done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_a_job_becomes_directives():
    job = Job(
        TRAIN, name="a", hosts=4, chips=8, env={"NOTE": "it's"}, restarts=2, time=slurm.datetime.timedelta(hours=12)
    )
    script = slurm.batch_script(job, slurm.Slurm(options=("--partition=a100",), notice=300))
    check_syntax(script)
    found = directives(script)
    assert found["nodes"] == "4" and found["ntasks-per-node"] == "1" and found["gpus-per-node"] == "8"
    assert found["time"] == "720" and found["signal"] == "B:USR1@300" and found["partition"] == "a100"
    assert "requeue" in found and found["open-mode"] == "append"
    assert "export JAX_LOCAL_DEVICE_IDS=0,1,2,3,4,5,6,7" in script and "export BIGCL_DEVICES=8" in script
    assert """export NOTE='it'"'"'s'""" in script


@pytest.mark.parametrize(
    "runtime, words",
    [
        ("pyxis", "--container-image=img --container-mounts=/data:/data python -m bigcl.train"),
        ("apptainer", "apptainer exec --nv --bind /data:/data img python -m bigcl.train"),
    ],
)
def test_containers(runtime, words):
    job = Job(TRAIN, chips=1, image="img", mounts=("/data:/data",))
    script = slurm.batch_script(job, slurm.Slurm(runtime=runtime))
    check_syntax(script)
    assert words in script and "PYTHONPATH" not in script


def test_each_element_of_an_array_has_its_arguments(tmp_path):
    """The part of the script that chooses them is run by bash itself."""
    members = [("--config.a=1 2", "--workdir=x"), ("--config.a=$(touch bad)", "--workdir=y")]
    script = slurm.batch_script(Job(TRAIN), slurm.Slurm(), members, parallel=3)
    check_syntax(script)
    assert directives(script)["array"] == "0-1%3" and directives(script)["output"] == "runs/a/slurm-%A_%a.log"
    choose = script[script.index("member=()") : script.index("esac") + 4] + '\nprintf "%s\\n" "${member[@]}"'
    for i, member in enumerate(members):
        env = {**os.environ, "SLURM_ARRAY_TASK_ID": str(i)}
        done = subprocess.run(["bash", "-c", choose], env=env, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert tuple(done.stdout.splitlines()) == member
    assert not list(tmp_path.iterdir())


def run(*command, **options):
    """What a command prints."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A Slurm of two nodes on this machine, unless one of this kind runs already."""
    if os.geteuid() or not (shutil.which("slurmctld") or shutil.which("apt-get")):
        pytest.skip("a real Slurm needs root, and slurmctld or apt-get to install it")
    state = (
        subprocess.run(["sinfo", "--noheader", "--format=%D"], capture_output=True, text=True)
        if (shutil.which("sinfo"))
        else None
    )
    if state is not None and state.returncode == 0 and state.stdout.strip() == "2":
        yield
        return
    env = {**os.environ, "SLURM_LOCAL": str(tmp_path_factory.mktemp("slurm"))}
    tool = ["bash", str(pathlib.Path(__file__).parent / "slurm_local.sh")]
    started = subprocess.run([*tool, "start"], env=env, capture_output=True, text=True, timeout=300)
    if started.returncode:
        pytest.skip(f"no Slurm could be started: {started.stderr[-300:]}")
    yield
    subprocess.run([*tool, "stop"], env=env, capture_output=True)


def submit(workdir, *arguments):
    """Submits a job of two nodes; returns its number."""
    variables = [f"--env={k}={v}" for k, v in ENVIRONMENT.items()]
    own = ["-n", "2", "--chips", "1", "--sbatch=--oversubscribe", "--sbatch=--nice=0", *variables]
    train = ["--config", "configs/emoji.py:smoke", "--config.train.batch=16", "--config.train.log_every=2"]
    command = [sys.executable, "launch/slurm.py", "submit", *own, "--", *train, "--workdir", str(workdir)]
    return run(*command, *arguments)


def state(job):
    """Slurm's word for where the job stands, and how often it was restarted."""
    shown = run("scontrol", "show", "job", "-o", job)
    return re.search(r"JobState=(\w+)", shown)[1], int(re.search(r"Restarts=(\d+)", shown)[1])


def wait_for(condition, job, workdir):
    """Waits until a condition holds; a job that fails, or takes too long, is an error with its log."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        log = "\n".join(p.read_text() for p in workdir.glob("slurm-*.log"))
        assert state(job)[0] not in ("FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"), log[-5000:]
        assert time.monotonic() < deadline, f"{state(job)} after {TIMEOUT} s\n{log[-5000:]}"
        if state(job)[0] == "PENDING":  # Slurm holds a requeued job back for two minutes; a test need not
            subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], capture_output=True)
        time.sleep(0.5)


def step(workdir):
    """The last step that was logged."""
    return max((row["step"] for row in read_rows(workdir / "metrics.jsonl")), default=0)


def parameters(workdir):
    """Every array of the last checkpoint, and its step."""
    folder = max((workdir / "checkpoints").glob("[0-9]*"), key=lambda p: int(p.name))
    with ocp.PyTreeCheckpointer() as reader:
        saved = reader.metadata(folder / "default").item_metadata.tree
        on_host = {key: ocp.RestoreArgs(restore_type=np.ndarray) for key in saved}
        return int(folder.name), reader.restore(folder / "default", ocp.args.PyTreeRestore(restore_args=on_host))


STEPS = 40


@pytest.fixture(scope="module")
def whole(cluster, tmp_path_factory):
    """A run across two nodes from beginning to end."""
    workdir = tmp_path_factory.mktemp("whole")
    job = submit(workdir, f"--config.train.steps={STEPS}")
    wait_for(lambda: state(job)[0] == "COMPLETED", job, workdir)
    log = next(workdir.glob("slurm-*.log")).read_text()
    assert "2 x cpu, 2 process(es)" in log
    return parameters(workdir)


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.parametrize("how", ["scontrol requeue", "notice before the time limit"])
def test_a_requeued_run_ends_with_the_same_parameters(whole, tmp_path, how):
    job = submit(tmp_path, f"--config.train.steps={STEPS}")
    wait_for(lambda: step(tmp_path) >= 6, job, tmp_path)
    if how == "scontrol requeue":
        run("scontrol", "requeue", job)
    else:
        run("scancel", "--batch", "--signal=USR1", job)
    wait_for(lambda: state(job) == ("COMPLETED", 1), job, tmp_path)
    log = next(tmp_path.glob("slurm-*.log")).read_text()
    resumed = re.search(r"resuming after step (\d+)", log)
    assert resumed and 6 <= int(resumed[1]) < STEPS, log
    (last, expected), (name, found) = whole, parameters(tmp_path)
    assert name == last == STEPS and found.keys() == expected.keys() and len(found) > 10
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value, err_msg=key)


@pytest.mark.slow
@pytest.mark.slurm
def test_a_cancelled_job_stays_cancelled(cluster, tmp_path):
    job = submit(tmp_path, f"--config.train.steps={STEPS}")
    wait_for(lambda: step(tmp_path) >= 2, job, tmp_path)
    run(sys.executable, "launch/slurm.py", "cancel", job)
    deadline = time.monotonic() + TIMEOUT
    while "COMPLETING" in run("squeue", "--noheader", "--format=%T", "-j", job) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert state(job) == ("CANCELLED", 0)


@pytest.mark.slow
@pytest.mark.slurm
def test_a_sweep_is_an_array(cluster, tmp_path):
    """Two members of two steps, one after the other; what is finished is not submitted again."""
    (tmp_path / "grid.py").write_text(
        "from configs.emoji import get_config\n\n"
        "def sweep(add):\n    for value in (0.01, 0.02):\n        add({'optim.lr': value})\n"
    )
    root = tmp_path / "sweep"
    variables = [f"--env={k}={v}" for k, v in ENVIRONMENT.items()]
    own = ["--on=slurm", "--parallel=1", "--chips=1", "--sbatch=--oversubscribe", *variables]
    train = ["--config.train.batch=16", "--config.train.steps=2"]
    command = [sys.executable, "-m", "launch.sweep", f"{tmp_path}/grid.py:smoke", "--workdir", str(root), *own]
    job = re.search(r"2 runs, array job (\d+)", run(*command, "--", *train))[1]
    deadline = time.monotonic() + TIMEOUT
    while run("squeue", "--noheader", "-j", job) and time.monotonic() < deadline:
        time.sleep(1)
    log = "\n".join(p.read_text() for p in root.glob("slurm-*.log"))
    done = run(*command, "--", *train)
    assert [line.split() for line in done.splitlines()] == [["finished", "lr=0.01"], ["finished", "lr=0.02"]], log
    assert len(list(root.glob(f"slurm-{job}_*.log"))) == 2

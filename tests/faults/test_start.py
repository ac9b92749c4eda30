"""Processes that do not belong together, and devices that compute the wrong thing."""

import pathlib

import pytest

from bigcl import doctor, train
from bigcl.config import plain
from bigcl.host import agree
from bigcl.registry import ConfigError
from bigcl.watchdog import STUCK
from tests.faults import tiny
from tests.faults.harness import PATIENCE, Job

OTHER = """
import os
from bigcl.data.sources.arrays import Synthetic
from tests.faults import tiny

def get_config(arg=None):
    c = tiny.get_config()
    if os.environ["JAX_PROCESS_ID"] == "1":
        {change}
    return c
"""


@pytest.mark.parametrize(
    "change, told",
    [
        ("c.optim.lr = 0.5", "  config.optim.lr: 0.001 -> 0.5 (process 1 on "),
        ("Synthetic.__len__ = lambda self: 95", "  data.examples: 96 -> 95 (process 1 on "),
        pytest.param("Synthetic.extent = 'other files'", "  data.files: ", marks=pytest.mark.slow),
    ],
)
def test_processes_that_disagree_stop_and_say_in_what(tmp_path, change, told):
    (tmp_path / "config.py").write_text(OTHER.format(change=change))
    job = Job(tmp_path / "run", "--config", str(tmp_path / "config.py"), processes=2)
    assert job.wait() == [1, 1]
    assert job.output().count("error: not all processes are as process 0 on ") == 2, job.output()
    assert job.output().count(told) == 2 and "Traceback" not in job.output()
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.slow
def test_a_process_that_does_not_come_ends_the_others(tmp_path):
    job = Job(tmp_path / "run", "--config.deadlines.start=20", processes=2)
    job.kill(1)
    assert job.processes[0].wait(PATIENCE) == STUCK
    assert "process 0 on " in job.output() and "joining the other processes" in job.output(), job.output()
    assert "process 1: has not come" in job.output()


def test_a_bucket_is_no_workdir(tmp_path, monkeypatch):
    """Before anything is made: a folder named `gs:` of this machine would be lost with it."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="expected a folder; mount the bucket"):
        train.run(plain(tiny.get_config()), pathlib.Path("gs://bucket/a"))
    assert not list(tmp_path.iterdir())


def test_one_process_agrees_with_itself():
    agree({"config": {"a": 1}})


def test_devices_that_compute_a_wrong_loss_stop_the_run(monkeypatch):
    class Fine:
        mesh = doctor.make_mesh()
        data_identity = mesh_identity = staticmethod(dict)

    train.check(Fine())
    monkeypatch.setattr(doctor, "infonce", lambda a, b, scale: (a * b).sum())
    with pytest.raises(ConfigError, match=r"process 0 on .* over 8 device\(s\) WRONG"):
        train.check(Fine())

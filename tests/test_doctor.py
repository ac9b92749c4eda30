"""The doctor, alone and as two processes."""

import pathlib
import sys

import numpy as np

from bigcl import doctor
from launch import local

ROOT = pathlib.Path(__file__).parent.parent


def test_dense_is_the_loss_and_its_gradient():
    """Central differences of the value."""
    za, zb = np.random.default_rng(0).normal(size=(2, 5, 3))
    value, slope, other = doctor.dense(za, zb, 2.0)
    nudge = np.zeros_like(za)
    nudge[1, 2] = 1e-6
    steps = [doctor.dense(za + s * nudge, zb, 2.0)[0] - value for s in (1, -1)]
    np.testing.assert_allclose((steps[0] - steps[1]) / 2e-6, slope[1, 2], rtol=1e-5)
    steps = [doctor.dense(za, zb + s * nudge, 2.0)[0] - value for s in (1, -1)]
    np.testing.assert_allclose((steps[0] - steps[1]) / 2e-6, other[1, 2], rtol=1e-5)


def test_a_wrong_loss_is_told(monkeypatch):
    assert "agrees" in doctor.loss_check()
    monkeypatch.setattr(doctor, "infonce", lambda a, b, scale: (a * b).sum())
    assert "WRONG" in doctor.loss_check()


def test_a_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    assert "WRONG" in doctor.workdir_check(tmp_path / "file" / "run")
    assert "MB/s" in doctor.workdir_check(tmp_path / "run") and not list((tmp_path / "run").iterdir())


def test_two_processes(tmp_path, capfd):
    command = [sys.executable, "-m", "bigcl.doctor", "--workdir", str(tmp_path)]
    environments = local.environments(2, 1, {"JAX_PLATFORMS": "cpu", "GLIBC_TUNABLES": "", "PYTHONPATH": str(ROOT)})
    assert local.run(command, environments, 0) == 0
    output = capfd.readouterr().out
    assert "processes   2 on 1 machine(s)" in output and "over 2 device(s) agrees" in output
    assert output.count("GB/s a device") == 2

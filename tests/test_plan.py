"""The command `bigcl.plan`."""

import json
import os
import re
import subprocess
import sys

import pytest


def plan(*flags):
    """Runs it on four emulated devices."""
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4"}
    command = [sys.executable, "-m", "bigcl.plan", "--config", "configs/siglip.py:smoke", *flags]
    return subprocess.run(command, env=env, capture_output=True, text=True)


def test_json_of_the_local_devices():
    done = plan("--topology", "local", "--json", "--config.mesh.fsdp=2")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["fits"] and said["devices"] == "4 x cpu" and said["settings"]["mesh"]["fsdp"] == 2
    assert said["collectives"] and said["temporaries"] and said["memory"]["temporaries"] > 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--topology", "local", "--slices", "2"], "--slices"),
        (["--topology", "v5e:32x32"], "16x16 at most|tpu-aot"),
        (["--topology", "local", "--config.mesh.fsdp=3"], "mesh: .* does not fit 4 devices"),
    ],
)
def test_what_cannot_be_planned_is_said(flags, message):
    done = plan(*flags)
    assert done.returncode == 2
    assert re.search(message, done.stderr), done.stderr

"""The command `bigcl.plan`."""

import json
import os
import re
import subprocess
import sys

import pytest

from bigcl import stages
from bigcl.registry import ConfigError


def plan(*flags, config="configs/siglip.py:smoke"):
    """Runs it on four emulated devices."""
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4"}
    command = [sys.executable, "-m", "bigcl.plan", "--config", str(config), *flags]
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


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A config file whose step compiles in no time."""
    config = {
        "train": {"steps": 4, "batch": 16},
        "data": {"source": {"kind": "synthetic", "size": 32, "spec": {}}},
        "task": {
            "kind": "two_tower",
            "towers": {name: {"kind": "mlp", "inputs": 64, "widths": [16]} for name in "ab"},
            "losses": [{"kind": "infonce", "of": ["a", "b"]}],
        },
        "optim": {"optimizer": {"kind": "sgd"}, "lr": 0.1},
    }
    file = tmp_path_factory.mktemp("config") / "small.py"
    file.write_text(f"def get_config(arg=None):\n    return {config!r}\n")
    return file


def test_a_search_is_part_of_the_json(small):
    done = plan("--topology", "local", "--json", "--search", config=small)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["search"]
    assert {option["plan"]["settings"]["mesh"]["tensor"] for option in found} == {1, 2}
    assert all(option["plan"]["fits"] for option in found) and "mesh.fsdp=4" in done.stderr


def test_what_does_not_fit_ends_with_one(small):
    """A micro-batch of which no part divides over the devices, parameters over all of them: nothing is left to try."""
    rows = 4 * 9973
    huge = ["--config.train.batch", str(rows), "--config.task.towers.a.inputs", str(2**28), "--config.mesh.fsdp=4"]
    done = plan("--topology", "local", *huge, config=small)
    assert done.returncode == 1, done.stderr
    assert "does not fit: the peak is above the memory of a chip" in done.stdout
    assert done.stdout.endswith("nothing that was tried makes it fit\n")


def test_one_stage_of_several_is_planned():
    config = {"stages": {"b": {"seed": 2}, "a": {"seed": 1}}}
    assert stages.choose(config, None) == {"seed": 2} and stages.choose(config, "a") == {"seed": 1}
    assert stages.choose({"seed": 3}, None) == {"seed": 3}
    for given, known in ((config, "a, b"), ({"seed": 3}, "no stages")):
        with pytest.raises(ConfigError, match=f"--stage c: the config has {known}"):
            stages.choose(given, "c")

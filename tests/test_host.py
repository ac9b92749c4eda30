"""What is refused before any device is touched."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
CALL = "from bigcl import host; host.join_cluster(); print('joined')"


def join(**env):
    """Status and output of a process that joins."""
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2", **env}
    done = subprocess.run([sys.executable, "-c", CALL], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("address", ["localhost:1", "127.0.0.1:1", "127.0.1.1:1", "[::1]:1"])
@pytest.mark.parametrize(
    "where",
    [
        {"SLURM_STEP_NUM_NODES": "2"},
        {"TPU_WORKER_HOSTNAMES": "a,b"},
        {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"},
    ],
)
def test_a_loopback_coordinator_of_several_machines(monkeypatch, address, where):
    from bigcl import host
    from bigcl.registry import ConfigError

    for key, value in {
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": "1",
        **where,
    }.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(ConfigError, match="but the job spans several"):
        host.join_cluster()


def test_a_coordinator_without_numbers():
    status, output = join(JAX_COORDINATOR_ADDRESS="localhost:1")
    assert status == 1 and "JAX_NUM_PROCESSES and JAX_PROCESS_ID must be numbers" in output


def test_devices_are_what_the_launcher_promised():
    status, output = join(BIGCL_DEVICES="8")
    assert status == 1 and "sees 2 cpu device(s), but the job was promised 8" in output
    assert join(BIGCL_DEVICES="2") == (0, "joined\n")

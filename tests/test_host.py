"""What is refused before any device is touched."""

import os
import pathlib
import re
import select
import signal
import subprocess
import sys
import time

import pytest

from launch.local import free_port

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


PRINTER = """
import sys
from bigcl import host
if __name__ == "__main__":
    host.end_with_reader()
    {how}
"""
MANY = "for i in range(100_000): print(i)"


@pytest.mark.parametrize(
    "how, read, status",
    [
        (MANY, 1, 141),
        (f"try:\n        {MANY}\n    except OSError as error:\n        sys.exit(f'error: {{error}}')", 1, 141),
        ("print('one', flush=True); sys.stdin.read(); print('two')", 1, 141),  # found at the end alone
        ("print('one', flush=True); sys.stdin.read()", 1, 0),
        (MANY, None, 0),
    ],
)
def test_a_command_whose_reader_goes_ends_without_a_word(how, read, status, tmp_path):
    (tmp_path / "printer.py").write_text(PRINTER.format(how=how))
    command = [sys.executable, "-X", "utf8", str(tmp_path / "printer.py")]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        lines = [process.stdout.readline() for _ in range(read)] if read else process.stdout.readlines()
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == status
    assert len(lines) == (read or 100_000)


@pytest.mark.parametrize("unbuffered", [False, True])
def test_lines_come_when_they_did_before(unbuffered, tmp_path):
    """At once where Python was asked for that, so that a log is of now."""
    (tmp_path / "printer.py").write_text(PRINTER.format(how="print('one'); sys.stdin.read(); print('two')"))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1" if unbuffered else ""}
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "printer.py")], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin and process.stdout
        came = select.select([process.stdout], [], [], 20 if unbuffered else 1)[0]
        assert bool(came) == unbuffered
        assert process.communicate()[0].split() == [b"one", b"two"] and process.returncode == 0


def test_every_command_ends_with_its_reader():
    """Each has the one call, by itself or within `prepare`."""
    files = [*(ROOT / "bigcl").rglob("*.py"), *(ROOT / "launch").rglob("*.py")]
    commands = {f for f in files if 'if __name__ == "__main__":' in f.read_text()} - {ROOT / "bigcl/interop/peers.py"}
    without = [
        f for f in commands if not {"prepare()", "end_with_reader()"} & set(re.findall(r"\w+\(\)", f.read_text()))
    ]
    assert len(commands) > 10 and without == []


def test_a_shell_of_an_allocation_is_no_task():
    """Slurm's `salloc` says how many tasks there are, and starts none."""
    status, output = join(SLURM_NTASKS="2", SLURM_JOB_ID="1", SLURM_JOB_NODELIST="a,b")
    assert status == 1 and "ConfigError: the environment speaks of several processes" in output
    assert "srun python -m" in output


WAITS = """
import sys, time
from absl import app
from bigcl import host, watchdog

def it_waits_here(argv):
    host.join_cluster()
    open(argv[1], "w").close()
    time.sleep(600)

watchdog.HEARTBEAT = 10
app.run(it_waits_here)
"""


@pytest.mark.parametrize("victim", [0, 1])
def test_a_machine_that_stands_still_ends_the_others(tmp_path, victim):
    """Its Python and its runtime, as on a machine that is gone: the other need not wait for a deadline, and says where
    it was."""
    address = {"JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}", "JAX_NUM_PROCESSES": "2", "JAX_PLATFORMS": "cpu"}
    processes = []
    for i in range(2):
        command = [sys.executable, "-c", WAITS, str(tmp_path / f"joined-{i}")]
        with (tmp_path / f"{i}.txt").open("w") as file:
            env = {**os.environ, **address, "JAX_PROCESS_ID": str(i)}
            processes.append(subprocess.Popen(command, cwd=ROOT, env=env, stdout=file, stderr=file))
    try:
        while not all((tmp_path / f"joined-{i}").exists() for i in range(2)):
            assert all(process.poll() is None for process in processes)
            time.sleep(0.1)
        processes[victim].send_signal(signal.SIGSTOP)
        assert processes[1 - victim].wait(300) == -signal.SIGABRT
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert "it_waits_here" in (tmp_path / f"{1 - victim}.txt").read_text()


def test_devices_that_exchange_have_threads_to_spare():
    from bigcl import host

    env = host.several_devices({"XLA_FLAGS": "--xla_dump_to=/x"})
    assert env["XLA_FLAGS"].split() == ["--xla_dump_to=/x", host.ONE_BY_ONE] and int(env["PJRT_NPROC"]) >= 64
    theirs = {**env, "PJRT_NPROC": "9"}
    assert host.several_devices(theirs)["PJRT_NPROC"] == "9"
    assert host.several_devices(env)["XLA_FLAGS"].count(host.ONE_BY_ONE) == 1

"""Real training processes, and what is done to them."""

import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from bigcl.data.cache import cache_root
from bigcl.log import read_rows
from tests.faults.tiny import parameters

ROOT = pathlib.Path(__file__).parent.parent.parent
CONFIG = "tests/faults/tiny.py"
VOLATILE = ("ms_per_step", "pairs_per_second", "tflops", "mfu", "input_wait_fraction", "eta_seconds")
VOLATILE += ("save_seconds", "save_host_bytes")
PATIENCE = 1800.0
"""Seconds that anything here may take before a test fails."""


class Job:
    """`bigcl.train` in `processes` processes of `devices` CPU devices each, with more variables if given."""

    def __init__(self, workdir: pathlib.Path, *arguments: str, processes: int = 1, devices: int = 1, **variables: str):
        self.workdir = workdir
        self.outputs = [workdir.with_name(f"{workdir.name}-{i}-{time.monotonic_ns()}.txt") for i in range(processes)]
        with socket.socket() as s:
            s.bind(("localhost", 0))
            address = f"localhost:{s.getsockname()[1]}"
        self.processes, self.sinks = [], []
        for i, output in enumerate(self.outputs):
            env = {
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                "JAX_NUM_CPU_DEVICES": str(devices),
                "JAX_COMPILATION_CACHE_DIR": str(cache_root() / "xla-tests"),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
                "GLIBC_TUNABLES": "",  # no second start of the interpreter
            }
            if processes > 1:
                several = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(processes)}
                env |= {**several, "JAX_PROCESS_ID": str(i)}
            env |= variables
            given = arguments if "--config" in arguments else ("--config", CONFIG, *arguments)
            given = given if "--workdir" in given else ("--workdir", str(workdir), *given)
            command = [sys.executable, "-m", "bigcl.train", *given]
            with output.open("w") as file:  # through a pipe, so that no limit of the process ends what it says
                sink = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=file)
            self.sinks.append(sink)
            self.processes.append(
                subprocess.Popen(command, cwd=ROOT, env=env, stdout=sink.stdin, stderr=subprocess.STDOUT)
            )
            sink.stdin.close()

    def output(self) -> str:
        """What all processes have printed."""
        return "\n".join(path.read_text() for path in self.outputs)

    def wait(self) -> list[int]:
        """Exit statuses."""
        try:
            return [p.wait(PATIENCE) for p in self.processes]
        finally:
            self.kill()
            for sink in self.sinks:
                sink.wait()

    def kill(self, *which: int) -> None:
        """SIGKILL to some of the processes, or to all."""
        for i, process in enumerate(self.processes):
            if process.poll() is None and (i in which or not which):
                process.send_signal(signal.SIGKILL)
                process.wait()

    def until_step(self, step: int) -> bool:
        """Waits until a step is logged; False if the job ended before it."""
        return self.until(lambda: last_step(self.workdir) >= step, f"step {step}")

    def until_said(self, text: str) -> bool:
        """Waits until a text is printed; False if the job ended before it."""
        return self.until(lambda: text in self.output(), text)

    def until(self, condition: Callable[[], bool], what: str) -> bool:
        """Waits until a condition holds; False if the job ended before it."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if any(p.poll() is not None for p in self.processes):
                return False
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(f"no {what} in {PATIENCE} s:\n{self.output()}")
            time.sleep(0.01)
        return True


def last_step(workdir: pathlib.Path) -> int:
    """The last step in the log of a run."""
    return max((row["step"] for row in read_rows(workdir / "metrics.jsonl")), default=0)


def history(workdir: pathlib.Path) -> list[dict]:
    """What the log says of the training itself: everything but speed."""
    rows = read_rows(workdir / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k not in VOLATILE} for row in rows]


def assert_same_run(one: pathlib.Path, other: pathlib.Path) -> None:
    """The same to the last bit: state, log, and order of examples."""
    a, b = parameters(one), parameters(other)
    assert a.keys() == b.keys()
    for key, value in a.items():
        np.testing.assert_array_equal(b[key], value, err_msg=key)
    assert history(one) == history(other)


def finish_under_fire(workdir: pathlib.Path, *arguments: str, kills: int, seed: int, processes: int = 1) -> int:
    """Runs to the end, killed `kills` times at moments drawn with `seed`: after a random number of further steps and a
    random part of a second, so in steps, saves and evaluations. One process is killed, or all. Returns how many kills
    came before the end."""
    chance, struck = random.Random(seed), 0
    for _ in range(kills):
        job = Job(workdir, *arguments, processes=processes)
        if not job.until_step(last_step(workdir) + chance.randrange(5, 60)):
            break
        time.sleep(chance.uniform(0.0, 0.3))
        if any(p.poll() is None for p in job.processes):
            struck += 1
        job.kill(*([chance.randrange(processes)] if chance.random() < 0.5 else []))
        job.kill()  # what a launcher does with the rest
    job = Job(workdir, *arguments, processes=processes)
    statuses = job.wait()
    assert statuses == [0] * processes, job.output()
    return struck

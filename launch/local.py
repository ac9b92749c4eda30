"""Runs a job on this machine: `python launch/local.py -n 4 -- --config configs/emoji.py --workdir runs/emoji`.

Several processes act as the hosts of a cluster, each with its own devices: on a CPU `--chips` emulated ones, of GPUs
its share. Ctrl-C once: all save and stop; twice: at once; three times: they are killed. A crash of one restarts all,
`--restarts` times; a preemption (exit status 75) always.
"""

import argparse
import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # `python launch/local.py` finds both packages as well

from bigcl.host import REQUEUE, device_files, end_with_reader
from launch.job import ROOT, JobError, add_arguments, make_job, split

GRACE = 60.0
"""Seconds for the other processes to end when one has; they may be saving."""

COLOURS = (36, 33, 35, 32, 34, 31)


class Group:
    """Processes that live and die together, each in a process group of its own, so that a terminal's Ctrl-C reaches
    them through us and once."""

    def __init__(self, command: Sequence[str], environments: Sequence[Mapping[str, str]], grace: float = GRACE):
        self.command, self.environments, self.grace = list(command), environments, grace
        self.stopped = 0  # how often a person or a scheduler asked to stop
        self.processes: list[subprocess.Popen[str]] = []

    def run(self) -> int:
        """Runs all to their end: 0, or the status of the first that failed."""
        alone = len(self.environments) == 1
        self.processes = [
            subprocess.Popen(
                self.command,
                env=dict(env),
                start_new_session=True,
                text=True,
                errors="replace",
                stdin=subprocess.DEVNULL,
                stdout=None if alone else subprocess.PIPE,
                stderr=None if alone else subprocess.STDOUT,
            )
            for env in self.environments
        ]
        if self.stopped:  # asked before they were there
            self.send(signal.SIGTERM)
        readers = [threading.Thread(target=relay, args=pair) for pair in enumerate(self.processes) if not alone]
        for reader in readers:
            reader.start()
        try:
            return self.wait()
        finally:
            self.send(signal.SIGKILL)
            for process in self.processes:
                process.wait()
            for reader in readers:
                reader.join(timeout=5)  # a grandchild may hold the pipe open

    def wait(self) -> int:
        """Waits for all. Once one has failed the others cannot go on: they get `grace` seconds to end by themselves."""
        first, deadline = 0, float("inf")
        while True:
            codes = [process.poll() for process in self.processes]
            failed = next((code for code in codes if code), 0)
            if failed and not first:
                first, deadline = failed, time.monotonic() + self.grace
                if failed != REQUEUE:
                    self.send(signal.SIGTERM)
            if None not in codes or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        return 128 - first if first < 0 else first

    def send(self, number: int) -> None:
        """A signal to each that lives; SIGKILL to its children as well, that of Ctrl-C to it alone."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                if number == signal.SIGKILL:
                    os.killpg(process.pid, number)
                elif process.poll() is None:
                    process.send_signal(number)

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM go to all, the end of the time as SIGTERM; the third request ends them the hard way."""

        def forward(number: int, frame: FrameType | None) -> None:
            self.stopped += 1
            wish = signal.SIGTERM if number == signal.SIGALRM else number
            self.send(wish if self.stopped < 3 else signal.SIGKILL)

        previous = {s: signal.signal(s, forward) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
        try:
            yield
        finally:
            signal.alarm(0)
            for s, handler in previous.items():
                signal.signal(s, handler)


def relay(index: int, process: "subprocess.Popen[str]") -> None:
    """Prints what a process says, line by line, with its number."""
    colour = COLOURS[index % len(COLOURS)]
    prefix = f"\033[{colour}m[{index}]\033[0m " if sys.stdout.isatty() else f"[{index}] "
    assert process.stdout is not None
    for line in process.stdout:
        sys.stdout.write(f"{prefix}{line.rstrip()}\n")
        sys.stdout.flush()


def run(
    command: Sequence[str],
    environments: Sequence[Mapping[str, str]],
    restarts: int,
    seconds: int | None = None,
    grace: float = GRACE,
) -> int:
    """Runs a group until it is done, has crashed more than `restarts` times, or was asked to stop, at the latest after
    `seconds`."""
    group = Group(command, environments, grace)
    crashes = 0
    with group.signals():
        signal.alarm(seconds or 0)
        while True:
            if len(environments) > 1:
                address = f"localhost:{free_port()}"  # a new one: the old may still be held by what has just died
                group.environments = [{**env, "JAX_COORDINATOR_ADDRESS": address} for env in environments]
            status = group.run()
            crashes += status not in (0, REQUEUE)
            if status == 0 or group.stopped or crashes > restarts:
                return status
            what = "preempted" if status == REQUEUE else f"crashed with status {status} ({crashes} of {restarts})"
            print(f"launch: {what}; all processes start again from the last checkpoint", file=sys.stderr, flush=True)


def environments(processes: int, chips: int, given: Mapping[str, str]) -> list[dict[str, str]]:
    """The variables of each process, with its number and its devices."""
    base = {**os.environ, **given}
    base["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), base.get("PYTHONPATH")]))
    for key in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        base.pop(key, None)
    devices = share_devices(processes, chips, base)
    if processes == 1:
        return [{**base, **devices[0]}]
    return [
        {**base, **devices[i], "JAX_NUM_PROCESSES": str(processes), "JAX_PROCESS_ID": str(i)} for i in range(processes)
    ]


def share_devices(processes: int, chips: int, env: Mapping[str, str]) -> list[dict[str, str]]:
    """The variables that give each process its devices."""
    on_cpu = env.get("JAX_PLATFORMS") == "cpu"
    gpus = [] if on_cpu else visible_gpus(env)
    if not gpus and not on_cpu and device_files("accel0") and processes > 1:
        raise JobError("-n: one process drives all TPU chips of a machine; leave it out, or set JAX_PLATFORMS=cpu")
    if not gpus:
        return [{"JAX_NUM_CPU_DEVICES": str(chips)} if chips else {}] * processes
    each = chips or len(gpus) // processes
    if each * processes > len(gpus) or each == 0:
        raise JobError(f"-n {processes} of {each or 1} device(s) each: this machine has {len(gpus)} GPU(s)")
    return [{"CUDA_VISIBLE_DEVICES": ",".join(gpus[i * each : (i + 1) * each])} for i in range(processes)]


def visible_gpus(env: Mapping[str, str]) -> list[str]:
    """The GPUs that a process would see."""
    if "CUDA_VISIBLE_DEVICES" in env:
        return [gpu for gpu in env["CUDA_VISIBLE_DEVICES"].split(",") if gpu]
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout.split()


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return int(free.getsockname()[1])


def main(argv: Sequence[str]) -> int:
    """Parses the arguments and runs the job."""
    parser = argparse.ArgumentParser(
        prog="launch/local.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add_arguments(parser)
    own, train = split(argv)
    args = parser.parse_args(own)
    try:
        job = make_job(args, train)
        if job.image or job.mounts:
            raise JobError("--image, --mount: no container is started here; run this command inside of one")
        seconds = max(1, int(job.time.total_seconds())) if job.time else None
        return run(
            job.command(sys.executable), environments(job.hosts, job.chips, job.environment()), job.restarts, seconds
        )
    except JobError as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    end_with_reader()
    sys.exit(main(sys.argv[1:]))

"""Programs that are measured against each other on one machine, in one run.

Each peer lives in a process of its own, so that thread pools and allocators do not disturb each other, and measures
when it is asked to; between requests it sleeps. Whoever measures asks the peers in turn, so that whatever else the
machine is doing falls on all of them alike.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any


class Peer:
    """A process that runs this program again as `--peer NAME`, with the same arguments, and answers requests."""

    def __init__(self, module: str, name: str):
        command = [sys.executable, "-m", module, *sys.argv[1:], "--peer", name]
        # Two frameworks share one accelerator: neither may take all of its memory at the start.
        environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        self.name = name
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer to a request. Raises RuntimeError if the process died of it."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the missing answer tells
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name}: ended with status {self.process.wait()}; what it wrote stands above")
        return json.loads(line)

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()  # closes its input, which ends it


def serve(answer: Callable[..., dict[str, Any]]) -> None:
    """What a peer does: one JSON line of answer for each of request. What libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(answer(**json.loads(line))), file=answers, flush=True)


def parser(doc: str | None, peers: Iterable[str]) -> argparse.ArgumentParser:
    """What all comparisons take."""
    result = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--rounds", type=int, default=5, help="times that each peer is asked, in turn")
    result.add_argument("--tiny", action="store_true", help="sizes for a test")
    result.add_argument("--peer", choices=list(peers), help=argparse.SUPPRESS)
    return result


def missing(*modules: str) -> str | None:
    """Why a peer cannot be measured here, or None."""
    absent = [m for m in modules if importlib.util.find_spec(m) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


def timed(run: Callable[[], None], repeat: int) -> dict[str, float]:
    """Seconds of one of `repeat` runs: on the clock, and of all cores together."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(repeat):
        run()
    return {"seconds": (time.perf_counter() - wall) / repeat, "cpu_seconds": (time.process_time() - cpu) / repeat}


def summary(rounds: list[dict[str, float]]) -> dict[str, float]:
    """Best and median of what `timed` gave in each round, in milliseconds."""
    wall, cpu = ([1e3 * r[key] for r in rounds] for key in ("seconds", "cpu_seconds"))
    return {"best_ms": min(wall), "median_ms": statistics.median(wall), "best_cpu_ms": min(cpu)}


def report(**line: Any) -> None:
    """One JSON line of results; numbers to four digits."""
    rounded = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in line.items()}
    print(json.dumps(rounded), flush=True)

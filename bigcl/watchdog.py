"""A run that stands still says where, and ends, so that whoever launched it can start it again."""

import contextlib
import dataclasses
import faulthandler
import json
import os
import pathlib
import socket
import sys
import threading
import time
from types import TracebackType

from bigcl.files import replacing
from bigcl.registry import ConfigError

STUCK = 70
"""The exit status of a process that stood still for too long (EX_SOFTWARE)."""

STDERR = 2
"""Where stacks go, whatever `sys.stderr` is."""

BEAT = 10.0
"""Seconds between two signs of life."""

LATER = 60.0
"""Seconds by which JAX waits longer for processes to come than the watchdog, which can say who is missing."""

HEARTBEAT = 100
"""Seconds in which JAX must hear from a process, whatever its Python does; else its machine is taken for dead, and JAX
ends the others with SIGABRT, which need not wait for a deadline then."""

PARTING = 300
"""Seconds for which JAX waits at the end for the other processes to end, one of which may be writing the report."""

AGREE = 5.0
"""Seconds between two questions of all processes whether one of them was asked to stop."""

SWEEP = 10.0
"""Seconds for which the files of a failed save are removed again when its threads write more."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Deadlines:
    """The section `deadlines` of a config: all that a run waits for, in seconds.

    start: for all processes to come, to agree, to restore and to compile.  step: between two steps, the input and the
    exchange with other processes included.  save: to copy the state, and for all processes to write their parts of it.
    evaluation: one evaluator.
    """

    start: float = 1800.0
    step: float = 900.0
    save: float = 900.0
    evaluation: float = 7200.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if (value := getattr(self, field.name)) <= 0:
                raise ConfigError(f"deadlines.{field.name}: expected seconds, got {value}")


class Watchdog:
    """Ends the process when what it is `doing` takes longer than it may, with the stacks of all its threads.

    Each process leaves a sign of life in `alive/<process>.json` of the workdir, so that the message can name those that
    the others wait for.

    workdir: shared by all processes.  process: index of this one.  processes: how many there are.
    """

    def __init__(self, workdir: pathlib.Path, process: int, processes: int = 1):
        self.folder, self.process, self.processes, self.began = workdir / "alive", process, processes, time.time()
        self.what, self.since, self.until = "starting", time.monotonic(), float("inf")
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self.folder.mkdir(parents=True, exist_ok=True)
        self.live()  # at once: a process may freeze before the thread has its turn
        self.thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.ended.set()
        faulthandler.cancel_dump_traceback_later()
        self.thread.join()
        (self.folder / f"{self.process}.json").unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # others are still there
            self.folder.rmdir()

    def doing(self, what: str, seconds: float) -> None:
        """From now on the process does `what`, for so long at most."""
        self.what, self.since, self.until = what, time.monotonic(), time.monotonic() + seconds
        # The thread below needs Python's lock; this one does not, should foreign code hold it.
        faulthandler.dump_traceback_later(seconds + 3 * BEAT, exit=True, file=STDERR)

    def watch(self) -> None:
        """Runs in the thread."""
        beat = 0.0
        while not self.ended.wait(min(1.0, BEAT)):
            if time.monotonic() > self.until:
                self.give_up()
            if time.monotonic() - beat > BEAT:
                beat = time.monotonic()
                self.live()

    def live(self) -> None:
        """Leaves a sign of life. A disk that is full is no reason to end."""
        state = {"host": socket.gethostname(), "doing": self.what, "since": time.monotonic() - self.since}
        with contextlib.suppress(OSError), replacing(self.folder / f"{self.process}.json") as partial:
            partial.write_text(json.dumps({**state, "time": time.time()}))

    def give_up(self) -> None:
        """Says what stands still, dumps all stacks, and ends the process."""
        seconds = time.monotonic() - self.since
        lines = [f"process {self.process} on {socket.gethostname()} stands still: {self.what} for {seconds:.0f} s"]
        message = "\n".join([*lines, *self.others(), "It ends now; the same command goes on from the last checkpoint."])
        with contextlib.suppress(OSError):
            print(f"\n{message}", file=sys.stderr, flush=True)
            faulthandler.dump_traceback(STDERR, all_threads=True)
        with contextlib.suppress(OSError), open(self.folder.parent / f"stuck-{self.process}.txt", "w") as file:
            file.write(message + "\n\n")
            file.flush()
            faulthandler.dump_traceback(file.fileno(), all_threads=True)
        os._exit(STUCK)

    def others(self) -> list[str]:
        """A line for each of the other processes."""
        lines = []
        for process in range(self.processes):
            if process == self.process:
                continue
            try:
                state = json.loads((self.folder / f"{process}.json").read_text())
                silent = time.time() - state["time"]
            except (OSError, ValueError):
                silent = float("inf")
            if silent > time.time() - self.began + 3 * BEAT:  # what is there is of an earlier run
                lines.append(f"  process {process}: has not come")
                continue
            told = f"silent for {silent:.0f} s, then " if silent > 3 * BEAT else "alive, "
            doing = f"{state['doing']} for {state['since']:.0f} s"
            lines.append(f"  process {process} on {state['host']}: {told}{doing}")
        return lines

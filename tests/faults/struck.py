"""The run of tiny.py, of which one process sends itself a signal in a certain place: `struck.py:PLACE,SIGNAL,PROCESS,N`
strikes at the Nth time that process is there."""

import functools
import os
import pathlib
import signal
import threading
import time

from bigcl.checkpoint import Checkpoints
from bigcl.encoder import Encoder
from bigcl.experiment import Experiment
from tests.faults import tiny

PLACES = {
    "start": (Experiment, "open"),
    "restore": (Checkpoints, "restore"),
    "compilation": (Experiment, "compile_step"),
    "save": (Checkpoints, "save"),
    "writing": (Checkpoints, "save"),
    "evaluation": (Encoder, "__call__"),
    "end": (Checkpoints, "close"),
}
"""Methods at whose beginning the signal is sent; "writing": after it, as soon as files are there. An encoder is called
in the middle of an evaluation."""


def strike(place: str, number: signal.Signals, nth: int) -> None:
    """Puts the signal into its place."""
    owner, name = PLACES[place]
    original, calls = getattr(owner, name), []

    @functools.wraps(original)
    def struck(self, *args, **options):
        calls.append(args)
        if len(calls) == nth and place == "writing":
            threading.Thread(target=when_written, args=(pathlib.Path(self.manager.directory), number)).start()
        elif len(calls) == nth:
            os.kill(os.getpid(), number)
        return original(self, *args, **options)

    if not hasattr(original, "__wrapped__"):  # a config may be read twice
        setattr(owner, name, struck)


def when_written(folder: pathlib.Path, number: signal.Signals) -> None:
    """Strikes while a checkpoint is being written."""
    while not list(folder.glob("*.orbax-checkpoint-tmp")):
        time.sleep(0.0005)
    os.kill(os.getpid(), number)


def get_config(arg):
    """Argument: PLACE,SIGNAL,PROCESS,N."""
    place, number, process, nth = arg.split(",")
    if os.environ.get("JAX_PROCESS_ID", "0") == process:
        strike(place, signal.Signals[number], int(nth))
    return tiny.get_config()

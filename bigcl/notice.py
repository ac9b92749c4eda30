"""What asks a run to stop: schedulers before they take a machine away, and Ctrl-C."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from bigcl.host import gathered

PREEMPTION = (signal.SIGTERM, signal.SIGUSR1)
"""What Slurm, GKE and TPU VMs send."""


class Interrupted(RuntimeError):
    """The run was asked to stop by a signal, and nothing that it has done is lost."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.signal = number


class Notice:
    """Keeps what a process was asked, whatever it is just doing, until it comes to a point where it can stop."""

    def __init__(self) -> None:
        self.signal = 0  # the first that came, if any

    @contextlib.contextmanager
    def kept(self, *signals: signal.Signals) -> Iterator["Notice"]:
        """Within it these signals end nothing, but are kept."""
        previous = {s: signal.signal(s, self.keep) for s in signals}
        try:
            yield self
        finally:
            for s, handler in previous.items():
                signal.signal(s, handler)

    def keep(self, number: int, frame: FrameType | None) -> None:
        """The handler. A second Ctrl-C ends the run at once."""
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or number

    def obey(self, where: str) -> None:
        """Raises Interrupted on all processes if one of them was asked to stop; each must call."""
        asked = max(part[0] for part in gathered(bytes([self.signal])))
        if asked:  # else what came meanwhile is kept for the next time
            self.signal = asked
            raise Interrupted(f"stopped {where}", asked)

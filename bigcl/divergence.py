"""Training that goes wrong: what is said of it, what ends it, and what takes it back."""

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from bigcl.checkpoint import Checkpoints
from bigcl.experiment import Experiment
from bigcl.hooks import Hook
from bigcl.log import Log
from bigcl.state import TrainState
from bigcl.tasks.task import Metrics

WINDOW, LEAST = 64, 16
"""Rows of the log that a loss is compared with, at most and at least."""

HIGH = 2
"""Rows in a row that make a spike: one batch may be hard."""


class Diverged(RuntimeError):
    """Too many steps in a row had a loss or gradient that was not finite."""


class Spike(RuntimeError):
    """The loss jumped, and the run goes back.

    step: where it was seen.  target: the checkpoint to go back to.
    """

    def __init__(self, step: int, target: int):
        super().__init__(f"the loss jumped before step {step}")
        self.step, self.target = step, target


class StopWhenDiverged(Hook):
    """Raises Diverged when too many steps in a row were skipped. It notes every step, and looks at the notes when a row
    is due, so that no step waits for the one before it."""

    every = 1

    def __init__(self, experiment: Experiment):
        self.train = experiment.train
        self.in_a_row: list[jax.Array] = []

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
        self.in_a_row.append(metrics["skipped_in_a_row"])
        if step % self.train.log_every and step < self.train.steps:
            return
        worst = max(x.item() for x in jax.device_get(self.in_a_row))
        self.in_a_row.clear()
        if worst >= self.train.max_skipped:
            raise Diverged(
                f"the loss or gradient of {worst} steps in a row up to step {step} was not finite. None of them was "
                "taken; lower optim.lr, set optim.clip_norm, or look at the batches, and run the same command again."
            )


class WatchLoss(Hook):
    """Says when the loss jumps, and raises Spike if the run may go back. It looks at the rows of the log alone, earlier
    parts of the run included, so that a run that was killed sees what it would have seen.

    rows: of the log, up to the state that the run goes on from.
    """

    def __init__(self, experiment: Experiment, checkpoints: Checkpoints, log: Log, rows: Iterable[Mapping[str, Any]]):
        self.checkpoints, self.log_to, self.every = checkpoints, log, experiment.train.log_every
        self.rewinds, self.slots = experiment.train.rewinds, experiment.checkpoint.every
        self.losses = [
            (r["step"], r["loss"]) for r in rows if r.get("loss") is not None and r["step"] % self.every == 0
        ]

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
        loss = metrics["loss"].item()
        if step % self.every or not np.isfinite(loss):
            return
        self.losses = [*self.losses, (step, loss)][-(WINDOW + HIGH + 1) :]
        values = [value for _, value in self.losses]
        if not has_jumped(values) or has_jumped(values[:-1]):
            return
        usual = float(np.median(values[:-HIGH]))
        told = f"ALARM: the loss is {loss:.4g} at step {step}, where {usual:.4g} was usual"
        fine = self.losses[-HIGH - 1][0]  # the state that gave this loss is older than the step
        earlier = [s for s in self.checkpoints.steps() if s < fine and self.slots and s % self.slots == 0]
        if not self.rewinds:
            self.log_to.say(told)
        elif int(state.rewinds) >= self.rewinds:
            self.log_to.say(f"{told}; all train.rewinds={self.rewinds} are used, training goes on")
        elif not earlier:
            self.log_to.say(f"{told}; no checkpoint is from before step {fine}, training goes on")
        else:
            target = earlier[-1]
            self.log_to.say(f"{told}; the run goes back to step {target}, and on with the batches after step {step}")
            raise Spike(step, target)


def has_jumped(losses: Sequence[float]) -> bool:
    """Whether the last losses are all above the median of those before by 8 standard deviations and by a tenth; the
    standard deviation as 1.4826 times the median absolute deviation (Hampel 1974), which a few outliers do not move."""
    before, last = np.array(losses[-HIGH - WINDOW : -HIGH]), losses[-HIGH:]
    if len(before) < LEAST:
        return False
    median = np.median(before)
    spread = 1.4826 * np.median(np.abs(before - median))
    return bool(min(last) > median + max(8 * spread, 0.1 * abs(median)))


class Alarms(Hook):
    """Says, once each time it begins, when the temperature is at its bound or above 1, when the gradient of a step is
    more than ten times as large as usual, and when the pairs of a batch, once told apart, are so by chance alone."""

    every = 1

    def __init__(self, experiment: Experiment, log: Log):
        self.train, self.max_scale, self.log_to = experiment.train, experiment.max_scale, log
        self.norms: list[jax.Array] = []
        self.usual: collections.deque[float] = collections.deque(maxlen=256)
        self.accuracies: dict[str, collections.deque[float]] = {}
        self.learned: set[str] = set()
        self.raised: set[str] = set()

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
        self.norms.append(metrics["grad_norm"])
        if step % self.train.log_every and step < self.train.steps:
            return
        self.watch_gradient(step, [x.item() for x in jax.device_get(self.norms)])
        self.norms.clear()
        values = {k: v.item() for k, v in jax.device_get(metrics).items() if watched(k)}
        if (scale := values.pop("logit_scale", None)) is not None:
            bound = f"its bound {1 / self.max_scale:.4g}; the loss cannot sharpen any further (task.max_scale)"
            self.tell("cold", scale >= 0.999 * self.max_scale, f"the temperature at step {step} is at {bound}")
            warm = f"the temperature at step {step} is {1 / max(scale, 1e-30):.4g}: pairs are hardly told apart"
            self.tell("warm", scale < 1, warm)
        for name, accuracy in values.items():
            self.watch_accuracy(step, name, accuracy)

    def watch_gradient(self, step: int, norms: Sequence[float]) -> None:
        """The norms of all steps since the last row, against the median of those before."""
        norms = [x for x in norms if np.isfinite(x)]  # the others are skipped steps, and counted as such
        if norms and len(self.usual) >= 50:
            usual = float(np.median(self.usual))
            told = f"the gradient's norm was {max(norms):.3g} before step {step}, where {usual:.3g} was usual"
            self.tell("gradient", max(norms) > 10 * usual, told)
        self.usual.extend(norms)

    def watch_accuracy(self, step: int, name: str, accuracy: float) -> None:
        """The median over five rows, against one in as many as are compared."""
        recent = self.accuracies.setdefault(name, collections.deque(maxlen=5))
        recent.append(accuracy)
        chance, middle = 1 / self.train.batch, float(np.median(recent))
        if middle > min(0.5, 8 * chance):
            self.learned.add(name)
        told = f"{name} at step {step} is {accuracy:.2g}, as by chance; it has been better"
        self.tell(name, name in self.learned and middle < 2 * chance, told)

    def tell(self, what: str, wrong: bool, told: str) -> None:
        """Says it if it is wrong and was not before."""
        if wrong and what not in self.raised:
            self.log_to.say(f"ALARM: {told}")
        (self.raised.add if wrong else self.raised.discard)(what)


def watched(key: str) -> bool:
    """Whether there is an alarm on this metric."""
    return key == "logit_scale" or key.endswith("/accuracy")

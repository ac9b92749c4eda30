"""The one training loop. It knows steps, state, mesh, checkpoints and hooks; it knows no modality and no loss."""

import contextlib
import pathlib
import signal
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from bigcl.checkpoint import CheckpointError, Checkpoints
from bigcl.data.feed import Feed
from bigcl.data.mixture import Mixture
from bigcl.data.quarantine import TooManyBadRecords
from bigcl.divergence import Alarms, Diverged, Spike, StopWhenDiverged, WatchLoss
from bigcl.experiment import Experiment
from bigcl.hooks import (
    CompilationAlarm,
    Evaluate,
    Hook,
    Meter,
    Profile,
    Save,
    WatchRecords,
    WatchSources,
    WriteMetrics,
)
from bigcl.host import agreed
from bigcl.log import Log, read_rows
from bigcl.mesh import batch_sharding, replicated
from bigcl.notice import PREEMPTION, Interrupted, Notice
from bigcl.state import TrainState
from bigcl.tasks.task import Batch, Metrics
from bigcl.watchdog import AGREE, Watchdog

StepFunction = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


class Trainer:
    """Trains an experiment in a workdir, from wherever the last call left it.

    notice: what asks the run to stop, kept since the process began.
    """

    def __init__(self, experiment: Experiment, workdir: pathlib.Path, watchdog: Watchdog, notice: Notice | None = None):
        self.experiment, self.workdir, self.steps = experiment, workdir, experiment.train.steps
        self.watchdog, self.deadlines = watchdog, experiment.deadlines
        self.checkpoints = experiment.checkpoints(workdir)
        self.notice = notice or Notice()

    def restore_or_init(self) -> TrainState:
        """The state to go on from. In this order:

        1. the latest checkpoint of this workdir,
        2. a fresh state with parameters of `checkpoint.init_from`,
        3. a fresh state.
        """
        experiment, options = self.experiment, self.experiment.checkpoint
        self.watchdog.doing("restoring", self.deadlines.start)
        if self.checkpoints.latest() is not None:
            return self.checkpoints.restore_newest(experiment.state_shapes)
        state = experiment.init()
        if options.init_from is None:
            return experiment.begin(state)
        params = state.params
        for name, prefix, only in options.origins():
            folder = pathlib.Path(name)
            inside = folder / "checkpoints"
            other = Checkpoints(inside if inside.is_dir() else folder, read_only=True)
            params = other.restore_params(params, only, prefix=prefix, fronts=experiment.fronts)
            other.close()
        ema = None if state.ema is None else {k: jnp.copy(params[k]) for k in state.ema}
        return experiment.begin(state.replace(params=params, ema=ema))

    def run(self, state: TrainState) -> TrainState:
        """Trains from `state` to the last step. Raises Interrupted when asked to stop, once the state is saved."""
        while True:
            try:
                return self.go_on(state)
            except Spike as spike:
                state = self.go_back(spike)

    def go_back(self, spike: Spike) -> TrainState:
        """The state from before a loss spike, with all batches since then to be left out. That is not saved: if the run
        is killed before the next checkpoint, it meets the same spike again, and does the same."""
        self.watchdog.doing("going back to a checkpoint", self.deadlines.start)
        self.checkpoints = self.experiment.checkpoints(self.workdir)
        state = self.checkpoints.go_back(spike.target, self.experiment.state_shapes)
        add = jax.jit(lambda x, n: x + n, out_shardings=replicated(self.experiment.mesh))
        lost = spike.step - spike.target
        return state.replace(rewinds=add(state.rewinds, 1), passed_over=add(state.passed_over, lost))

    def go_on(self, state: TrainState) -> TrainState:
        """Trains from `state` to the last step, or to a loss spike."""
        start = int(state.step)
        log = Log(self.workdir, steps=self.steps, start=start)
        rows = [row for row in read_rows(self.workdir / "metrics.jsonl") if row["step"] <= start]
        for row in rows:
            self.checkpoints.rate(row["step"], row)
        self.experiment.loader.passed_over = int(state.passed_over)
        feed = Feed(self.experiment.loader.batches(start), batch_sharding(self.experiment.mesh))
        meter = Meter(self.experiment, feed, start, self.watchdog)
        hooks = self.hooks(log, meter, rows)
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.notice.kept(signal.SIGINT, *PREEMPTION))  # until all is closed
            for close in (log.close, self.checkpoints.close, feed.close, *(hook.close for hook in hooks)):
                stack.callback(close)
            stack.callback(self.watchdog.doing, "writing the last checkpoint", self.deadlines.save)
            self.catch_up(start, state, hooks)
            if start >= self.steps:
                return state
            self.notice.obey(f"before step {start + 1} of {self.steps}")
            self.watchdog.doing("compiling", self.deadlines.start)
            began = time.perf_counter()
            step_function = self.experiment.compile_step()
            self.checkpoints.prepare(self.experiment.state_shapes)
            began_by = f"resuming after step {start}" if start else "starting"
            log.say(f"compiled in {time.perf_counter() - began:.1f} s; {began_by}")
            self.notice.obey(f"before step {start + 1} of {self.steps}")
            meter.begin()
            return self.loop(step_function, state, feed, hooks)

    def loop(self, step_function: StepFunction, state: TrainState, feed: Feed, hooks: list[Hook]) -> TrainState:
        """Step after step, and the hooks that are due."""
        metrics: Metrics = {}
        start = int(state.step)
        self.asked, self.ask_at = (start, time.monotonic()), start + 1
        for step in range(start + 1, self.steps + 1):
            self.watchdog.doing(f"step {step}", self.deadlines.step)
            batch = feed.take(after=metrics.get("loss"))
            with jax.transfer_guard("disallow"):
                state, metrics = step_function(state, batch)
            try:
                for hook in hooks:
                    if self.due(hook, step):
                        hook(step, state, metrics)
            except (Diverged, TooManyBadRecords) as error:
                # Steps that were not taken left the state as it was.
                error.add_note(f"stopped after step {step} of {self.steps}, {self.save_at_once(step, state)}")
                raise
            if self.stopping(step):
                how = self.save_at_once(step, state)
                raise Interrupted(f"stopped after step {step} of {self.steps}, {how}", self.notice.signal)
        return state

    def save_at_once(self, step: int, state: TrainState) -> str:
        """Saves, waits for it, and says how that went. A full disk is no reason for a run not to be started again: it
        goes on from the checkpoint before."""
        self.watchdog.doing(f"saving step {step}", self.deadlines.save)
        try:
            self.checkpoints.save(step, state)
            failure = self.checkpoints.settle()
        except CheckpointError as error:
            failure = f"{error}"
        return f"but not saved: {failure}" if failure else "and saved"

    def hooks(self, log: Log, meter: Meter, rows: list[dict[str, Any]]) -> list[Hook]:
        """What happens beside the steps, in this order: a row is written before the checkpoint that makes it final, and
        the state is safe before evaluators, which may fail, look at it."""
        return [
            WriteMetrics(self.experiment, log, meter),
            CompilationAlarm(self.experiment, log, meter),
            WatchRecords(self.experiment, log, meter, self.workdir),
            *([WatchSources(self.experiment, log)] if isinstance(self.experiment.source, Mixture) else []),
            StopWhenDiverged(self.experiment),
            Alarms(self.experiment, log),
            WatchLoss(self.experiment, self.checkpoints, log, rows),
            Save(self.experiment, self.checkpoints, log, meter),
            Profile(self.experiment, self.workdir / "profile", meter),
            *(Evaluate(self.experiment, self.checkpoints, log, meter, name) for name in self.experiment.evaluators),
        ]

    def due(self, hook: Hook, step: int) -> bool:
        """Whether a hook is called after this step."""
        return step == self.steps or bool(hook.every and step % hook.every == 0)

    def catch_up(self, step: int, state: TrainState, hooks: list[Hook]) -> None:
        """Evaluates a restored state: where the run ended after it was saved and before it was evaluated, and at the
        end, for the report shows what the evaluators see. Between evaluators it may be asked to stop."""
        for hook in hooks:
            if not isinstance(hook, Evaluate) or not step or not self.due(hook, step):
                continue
            if step == self.steps or agreed(not hook.knows(step)):
                self.notice.obey(f"before {hook.name} was evaluated at step {step}")
                hook(step, state, {})

    def stopping(self, step: int) -> bool:
        """Whether to stop after this step. Several processes agree on it every few seconds, at steps that follow from
        the pace of the slowest, so that none waits for one that is gone."""
        notice = self.notice.signal
        if jax.process_count() > 1:
            if step < self.ask_at:
                return False
            pace = (time.monotonic() - self.asked[1]) / (step - self.asked[0])
            said = multihost_utils.process_allgather(np.array([notice, pace], np.float32))
            notice = int(said[:, 0].max())
            # At most twice as far as the last time, which may have been quick steps between two saves.
            ahead = min(max(1, int(AGREE / said[:, 1].max())), 2 * (step - self.asked[0]))
            self.asked, self.ask_at = (step, time.monotonic()), step + ahead
        if not notice or step >= self.steps:
            return False  # and what came while they agreed is kept for the next time
        self.notice.signal = notice
        return True

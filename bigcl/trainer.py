"""The one training loop. It knows steps, state, mesh, checkpoints and hooks; it knows no modality and no loss."""

import pathlib
import signal
import time
from types import FrameType

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from bigcl.checkpoint import Checkpoints
from bigcl.data.feed import Feed
from bigcl.experiment import Experiment
from bigcl.hooks import Diverged, Evaluate, Hook, Meter, Save, WriteMetrics
from bigcl.log import Log
from bigcl.mesh import batch_sharding
from bigcl.state import TrainState


class Interrupted(RuntimeError):
    """The run was asked to stop, and has saved."""


class Trainer:
    """Trains an experiment in a workdir, from wherever the last call left it."""

    def __init__(self, experiment: Experiment, workdir: pathlib.Path):
        self.experiment, self.workdir, self.steps = experiment, workdir, experiment.train.steps
        self.checkpoints = experiment.checkpoints(workdir)
        self.stop = False

    def restore_or_init(self) -> TrainState:
        """The state to go on from. In this order:

        1. the latest checkpoint of this workdir,
        2. a fresh state with parameters of `checkpoint.init_from`,
        3. a fresh state.
        """
        experiment, options = self.experiment, self.experiment.checkpoint
        if self.checkpoints.latest() is not None:
            return self.checkpoints.restore(experiment.state_shapes)
        state = experiment.init()
        if options.init_from is None:
            return state
        params = Checkpoints(pathlib.Path(options.init_from)).restore_params(state.params, options.init_only)
        return state.replace(
            params=params, ema=None if state.ema is None else {k: jnp.copy(params[k]) for k in state.ema}
        )

    def run(self) -> TrainState:
        """Trains to the last step. Raises Interrupted after SIGINT or SIGTERM, once the state is saved; a second signal
        stops at once."""
        state = self.restore_or_init()
        start = int(state.step)
        if start >= self.steps:
            return state
        log = Log(self.workdir, steps=self.steps, start=start)
        began = time.perf_counter()
        step_function = self.experiment.compile_step()
        seconds = time.perf_counter() - began
        log.say(f"compiled in {seconds:.1f} s; {f'resuming after step {start}' if start else 'starting'}")
        feed = Feed(self.experiment.loader.batches(start), batch_sharding(self.experiment.mesh))
        hooks = self.hooks(log, Meter(self.experiment, feed, start))
        previous = {s: signal.signal(s, self.ask_to_stop) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            for step in range(start + 1, self.steps + 1):
                with jax.transfer_guard("disallow"):
                    state, metrics = step_function(state, next(feed))
                for hook in hooks:
                    if step == self.steps or (hook.every and step % hook.every == 0):
                        hook(step, state, metrics)
                if self.stopping(step):
                    self.checkpoints.save(step, state, {})
                    raise Interrupted(f"stopped after step {step} of {self.steps}, and saved")
            return state
        except Diverged:
            self.checkpoints.save(step, state, {})  # steps that were not taken left the state as it was
            raise
        finally:
            for s, handler in previous.items():
                signal.signal(s, handler)
            feed.close()
            self.checkpoints.close()
            log.close()

    def hooks(self, log: Log, meter: Meter) -> list[Hook]:
        """What happens beside the steps, in this order: a checkpoint carries the numbers of the last evaluation."""
        results: dict[str, float] = {}
        evaluations = [Evaluate(self.experiment, log, meter, name, results) for name in self.experiment.evaluators]
        return [
            WriteMetrics(self.experiment, log, meter),
            *evaluations,
            Save(self.experiment, self.checkpoints, meter, results),
        ]

    def stopping(self, step: int) -> bool:
        """Whether to stop after this step. Several processes agree on it, at the steps that are logged, so that none
        waits for one that is gone."""
        if step == self.steps or jax.process_count() == 1:
            return self.stop and step < self.steps
        return step % self.experiment.train.log_every == 0 and bool(
            multihost_utils.process_allgather(np.array(self.stop)).any()
        )

    def ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        """The first signal ends the run after the step in progress, the second at once."""
        if self.stop:
            raise KeyboardInterrupt
        self.stop = True

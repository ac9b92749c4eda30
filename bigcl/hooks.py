"""What happens beside the training steps, each with its own `every`."""

import contextlib
import json
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from bigcl.checkpoint import CheckpointError, Checkpoints, host_bytes
from bigcl.data.feed import Feed
from bigcl.data.mixture import Mixture
from bigcl.data.order import batch_hash
from bigcl.data.quarantine import Allowance, Quarantine, describe, fault_records
from bigcl.experiment import Experiment
from bigcl.flops import peak_tflops
from bigcl.host import gathered
from bigcl.log import Log
from bigcl.state import TrainState
from bigcl.tasks.task import Metrics
from bigcl.watchdog import Watchdog

WARM_UP = 5
"""Steps that a trace leaves out: the first ones wait for input and fill caches."""

COMPILED = "/jax/core/compile/backend_compile_duration"
"""JAX's name of the event."""


class Hook:
    """Called after every step that is a multiple of `every` (0: none), and after the last. Hooks run in the order of
    the trainer's list."""

    every: int = 0

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """After the last call, wherever the run ended."""


class WriteMetrics(Hook):
    """A row of numbers, and the live line."""

    def __init__(self, experiment: Experiment, log: Log, meter: "Meter"):
        self.log_to, self.meter, self.every = log, meter, experiment.train.log_every

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
        scalars = {k: v for k, v in metrics.items() if v.ndim == 0}
        row = self.meter.row(step, {k: v.item() for k, v in jax.device_get(scalars).items()})
        self.log_to.write(row)
        self.log_to.status(row)


class WatchRecords(Hook):
    """Counts the bad records since the last row, of all processes, lists them, and stops the run when they are too
    many. For each field of `data.repeats`, counts the rows of this step's batch that have the same as an earlier row: a
    contrastive loss takes these for negatives of each other."""

    def __init__(self, experiment: Experiment, log: Log, meter: "Meter", workdir: pathlib.Path):
        self.log_to, self.feed, self.step, self.every = log, meter.feed, meter.step, experiment.train.log_every
        self.batch, self.repeats = experiment.train.batch, experiment.data.repeats
        self.allowance = Allowance(experiment.data.max_bad_fraction)
        self.quarantine = Quarantine(workdir / "quarantine.jsonl") if log.writes else None
        if self.quarantine is not None:
            self.quarantine.add(fault_records(getattr(experiment.source, "faults", ())))

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
        records = [r for part in gathered(json.dumps(self.feed.bad).encode()) for r in json.loads(part)]
        self.feed.bad.clear()
        digests = np.frombuffer(b"".join(gathered(self.feed.repeats.tobytes())), np.uint64)
        columns = digests.reshape(-1, max(1, len(self.repeats))).T
        repeated = {f"repeats/{key}": c.size - np.unique(c).size for key, c in zip(self.repeats, columns, strict=False)}
        self.log_to.write({"step": step, "bad_records": len(records), **repeated})
        if self.quarantine is not None and (new := self.quarantine.add(records)):
            self.log_to.say(f"quarantine.jsonl: {new} more bad records, as {describe(records[-1])}")
        self.allowance.count((step - self.step) * self.batch, records)
        self.step = step


class WatchSources(Hook):
    """How many epochs each source of a mixture has gone through, and its mean loss since the last row: over its rows,
    or over its batches if the loss is no mean over rows and every batch is of one source. With another loss and mixed
    batches there is none."""

    every = 1

    def __init__(self, experiment: Experiment, log: Log):
        self.experiment, self.log_to = experiment, log
        self.losses: list[tuple[int, jax.Array]] = []

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
        source, train = self.experiment.source, self.experiment.train
        if "loss_rows" in metrics or source.homogeneous:
            self.losses.append((step, metrics.get("loss_rows", metrics["loss"])))
        if step % train.log_every == 0 or step == train.steps:
            epochs = {f"epochs_of/{name}": epochs for name, _, _, epochs in source.expect(step, train.batch)}
            self.log_to.write({"step": step, **epochs, **self.means(source)})
            self.losses.clear()

    def means(self, source: Mixture) -> dict[str, float]:
        """By source, of those that came."""
        sums, counts = np.zeros((2, len(source.sources)))
        for step, losses in self.losses:
            which = source.which(self.experiment.loader.indices(step - 1))
            np.add.at(sums, which, jax.device_get(losses))
            np.add.at(counts, which, 1)
        names = list(source.sources)
        return {f"loss_of/{names[i]}": float(sums[i] / counts[i]) for i in np.flatnonzero(counts)}


class Save(Hook):
    """A checkpoint, written while training goes on. One that fails is no end of a good run: it is said, and the next
    one tried at its time. The row tells how long it held up the loop, and how much memory of the host it holds."""

    def __init__(self, experiment: Experiment, checkpoints: Checkpoints, log: Log, meter: "Meter"):
        self.checkpoints, self.log_to, self.meter = checkpoints, log, meter
        self.every, self.deadline = experiment.checkpoint.every, experiment.deadlines.save

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
        with self.meter.paused(state, f"saving step {step}", self.deadline):
            began = time.perf_counter()
            try:
                self.checkpoints.save(step, state)
            except CheckpointError as error:
                self.log_to.say(f"warning: {error}; training goes on, and the next is tried at its time")
                return
        seconds = time.perf_counter() - began
        self.log_to.write({"step": step, "save_seconds": seconds, "save_host_bytes": host_bytes(state)})


class Evaluate(Hook):
    """One evaluator. Its numbers join the row of the step, and rate the checkpoint of the step if there is one."""

    def __init__(self, experiment: Experiment, checkpoints: Checkpoints, log: Log, meter: "Meter", name: str):
        self.experiment, self.checkpoints, self.log_to, self.meter = experiment, checkpoints, log, meter
        self.name, self.every = name, experiment.eval_every[name]

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
        with self.meter.paused(state, f"evaluation {self.name} at step {step}", self.experiment.deadlines.evaluation):
            numbers = self.experiment.evaluate(state, [self.name])
        self.log_to.write({"step": step, **numbers})
        self.checkpoints.rate(step, numbers)

    def knows(self, step: int) -> bool:
        """Whether the log holds the numbers of this step."""
        row = self.log_to.last
        return row.get("step") == step and any(k.startswith(f"eval/{self.name}/") for k in row)


class Profile(Hook):
    """A trace of a few steps soon after the start, in the workdir's `profile/`, for TensorBoard or Perfetto."""

    every = 1

    def __init__(self, experiment: Experiment, folder: pathlib.Path, meter: "Meter"):
        self.folder, self.meter, self.deadlines = folder, meter, experiment.deadlines
        self.length, self.last = experiment.train.profile, experiment.train.steps
        self.steps, self.traces = 0, False

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
        if jax.process_index():
            return
        self.steps += 1
        first, end = WARM_UP, WARM_UP + self.length
        if self.steps == first < end and step < self.last:
            with self.meter.paused(state, "tracing", self.deadlines.step):
                options = jax.profiler.ProfileOptions()
                options.python_tracer_level = 0
                jax.profiler.start_trace(self.folder, profiler_options=options)
            self.traces = True
        elif self.traces and (self.steps == end or step == self.last):
            with self.meter.paused(state, "tracing", self.deadlines.step):
                self.close()

    def close(self) -> None:
        if self.traces:
            self.traces = False
            jax.profiler.stop_trace()


class CompilationAlarm(Hook):
    """Says so when XLA compiles anything between the steps of a warm run, evaluations and checkpoints aside: it is what
    makes a run slow for no visible reason. (The step itself is never compiled again: another shape is an error.)"""

    def __init__(self, experiment: Experiment, log: Log, meter: "Meter"):
        self.log_to, self.meter, self.every = log, meter, experiment.train.log_every
        self.programs: list[str] = []
        self.since: int | None = None
        jax.monitoring.register_event_duration_secs_listener(self.note)

    def note(self, event: str, duration_secs: float, **details: Any) -> None:
        """Called by JAX."""
        if event == COMPILED and not self.meter.is_paused:
            self.programs.append(str(details.get("fun_name", "a program")))

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
        programs, self.programs, since, self.since = self.programs, [], self.since, step
        if since is not None and programs:
            self.log_to.say(
                f"warning: compiled between steps {since} and {step}: {', '.join(sorted(set(programs))[:3])}; "
                "nothing should be once the run is warm"
            )

    def close(self) -> None:
        jax.monitoring.unregister_event_duration_listener(self.note)


class Meter:
    """Speed of a run between two rows of its log, without what runs inside `paused`."""

    def __init__(self, experiment: Experiment, feed: Feed, start: int, watchdog: Watchdog):
        self.experiment, self.feed, self.watchdog = experiment, feed, watchdog
        self.flops, self.peak = experiment.flops_per_step(), peak_tflops()
        self.step, self.is_paused = start, False
        self.begin()

    def begin(self) -> None:
        """The first step begins now."""
        self.mark, self.waited, self.pause = time.perf_counter(), self.feed.waited, 0.0

    @contextlib.contextmanager
    def paused(self, state: TrainState, what: str, seconds: float) -> Iterator[None]:
        """Takes the time spent inside off the meter, once the steps that led to `state` are done. what: is done inside,
        and may take so many `seconds`."""
        jax.block_until_ready(state)
        self.watchdog.doing(what, seconds)
        start, self.is_paused = time.perf_counter(), True
        try:
            yield
        finally:
            self.is_paused = False
            self.pause += time.perf_counter() - start

    def row(self, step: int, metrics: dict[str, Any]) -> dict[str, Any]:
        """The row of a step whose metrics are on the host."""
        train, now = self.experiment.train, time.perf_counter()
        seconds = max(now - self.mark - self.pause, 1e-9)
        per_step = seconds / (step - self.step)
        tflops = self.flops / per_step / 1e12
        row = {
            "step": step,
            "loss": metrics.pop("loss"),
            "learning_rate": float(self.experiment.optimizer.schedule(step - 1 - metrics["skipped_steps"])),
            **({"temperature": 1 / max(metrics["logit_scale"], 1e-30)} if "logit_scale" in metrics else {}),
            **metrics,
            "ms_per_step": 1e3 * per_step,
            "pairs_per_second": train.batch / per_step,
            "tflops": tflops,
            "mfu": tflops / self.peak if self.peak else None,
            "input_wait_fraction": (self.feed.waited - self.waited) / seconds,
            "eta_seconds": per_step * (train.steps - step),
            "examples_seen": step * train.batch,
            "batch_hash": batch_hash(self.experiment.loader.indices(step - 1)),
            **({"passed_over": self.experiment.loader.passed_over} if train.rewinds else {}),
        }
        self.mark, self.step, self.waited, self.pause = now, step, self.feed.waited, 0.0
        return row

"""What the trainer's loop costs beside the compiled step: `python -m benchmarks.overhead [--config configs/emoji.py]
[--steps 30]`.

The bare step is the compiled program called on one batch in a plain Python loop. "loop" is the trainer's own, with all
its hooks but evaluations and checkpoints, on that batch; "fed" is the same with the input pipeline beside it, whose
workers share the cores where the device is the CPU. All in turn in one process, and the medians are compared. Then
the command is started twice, with an empty compilation cache and with what that leaves: seconds from the start of the
process to the first row of its log. One JSON line to standard output.
"""

from bigcl import host

if __name__ == "__main__":
    host.prepare()

import argparse
import json
import os
import pathlib
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import numpy as np

from bigcl.config import plain
from bigcl.data.feed import Feed
from bigcl.experiment import Experiment
from bigcl.hooks import Evaluate, Meter, Profile, Save
from bigcl.log import Log
from bigcl.mesh import batch_sharding
from bigcl.state import TrainState
from bigcl.tasks.task import Batch
from bigcl.trainer import StepFunction, Trainer
from bigcl.watchdog import Watchdog


def seconds_to_first_step(config: str, cache: str) -> float:
    """From the start of `bigcl.train` to the row of its first step; the data are prepared already."""
    with tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, "-m", "bigcl.train", "--config", config, "--workdir", workdir]
        start, rows = time.perf_counter(), pathlib.Path(workdir) / "metrics.jsonl"
        process = subprocess.Popen(
            [*command, "--config.train.log_every=1"],
            env={**os.environ, "JAX_COMPILATION_CACHE_DIR": cache},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while not (rows.exists() and rows.stat().st_size):
            if process.poll() is not None:
                raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode} before its first step")
            time.sleep(0.01)
        seconds = time.perf_counter() - start
        process.kill()
        process.wait()
        return seconds


class Held:
    """A feed that always has the same batch, on the devices."""

    def __init__(self, batch: Batch):
        self.batch, self.waited, self.bad, self.repeats = batch, 0.0, [], np.zeros(0, np.uint64)

    def take(self, after: jax.Array | None = None) -> Batch:
        return self.batch


class Loop:
    """The trainer's loop, a few steps at a time."""

    def __init__(self, experiment: Experiment, folder: pathlib.Path, feed: Any):
        self.watchdog = Watchdog(folder, 0)
        self.trainer, self.feed = Trainer(experiment, folder, self.watchdog), feed
        self.meter = Meter(experiment, feed, 0, self.watchdog)
        log = Log(folder, steps=experiment.train.steps)
        hooks = self.trainer.hooks(log, self.meter, [])
        self.hooks = [hook for hook in hooks if not isinstance(hook, Save | Evaluate | Profile)]

    def run(self, step: StepFunction, state: TrainState, count: int) -> TrainState:
        """So many steps from `state`."""
        self.meter.step = int(state.step)
        self.meter.begin()
        self.trainer.steps = self.meter.step + count
        return self.trainer.loop(step, state, self.feed, self.hooks)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/emoji.py")
    parser.add_argument("--argument", default=None, help="the config's own argument")
    parser.add_argument("--steps", type=int, default=30, help="steps in each round")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    host.configure_jax()
    config = plain(runpy.run_path(args.config)["get_config"](args.argument))
    config["evals"] = {}
    config["train"]["steps"] = 10 + 3 * args.steps * args.rounds
    experiment = Experiment(**config)
    step, state = experiment.compile_step(), experiment.init()
    feed = Feed(experiment.loader.batches(0), batch_sharding(experiment.mesh))
    held, dispatch = feed.take(), []
    for _ in range(10):  # the call returns when the step is on its way
        jax.block_until_ready(state)
        start = time.perf_counter()
        state, _metrics = step(state, held)
        dispatch.append(time.perf_counter() - start)

    def bare(state: TrainState) -> TrainState:
        for _ in range(args.steps):
            state, _metrics = step(state, held)
        return state

    seconds: dict[str, list[float]] = {"bare": [], "loop": [], "fed": []}
    with tempfile.TemporaryDirectory() as folder:
        loops = {
            name: Loop(experiment, pathlib.Path(folder) / name, f) for name, f in (("loop", Held(held)), ("fed", feed))
        }
        for _ in range(args.rounds):
            for name, times in seconds.items():
                start = time.perf_counter()
                state = loops[name].run(step, state, args.steps) if name in loops else bare(state)
                jax.block_until_ready(state)
                times.append((time.perf_counter() - start) / args.steps)
    feed.close()
    with tempfile.TemporaryDirectory() as cache:
        config = args.config if args.argument is None else f"{args.config}:{args.argument}"
        cold, warm = (seconds_to_first_step(config, cache) for _ in range(2))

    def over(name: str) -> float:
        return statistics.median(b / a for a, b in zip(seconds["bare"], seconds[name], strict=True)) - 1

    result = {
        "benchmark": "overhead",
        "config": args.config,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "jax": jax.__version__,
        **{f"{name}_ms": 1e3 * statistics.median(times) for name, times in seconds.items()},
        "dispatch_ms": 1e3 * statistics.median(dispatch),
        "dispatch_share": statistics.median(dispatch) / statistics.median(seconds["bare"]),
        "overhead": over("loop"),
        "overhead_fed": over("fed"),
        "first_step_cold_seconds": cold,
        "first_step_warm_seconds": warm,
        "input_wait_fraction": feed.waited / sum(seconds["fed"]) / args.steps,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

"""What the trainer's loop costs beside the compiled step: `python benchmarks/overhead.py [--config configs/emoji.py]
[--steps 200]`.

The bare step is the same compiled program called on the same batch in a plain Python loop; the trainer adds the input
pipeline, transfers, hooks and logging. Both run alternately in one process, and the medians are compared. Then the
command is started twice, with an empty compilation cache and with what that leaves: seconds from the start of the
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

import jax

from bigcl.config import plain
from bigcl.data.feed import Feed
from bigcl.experiment import Experiment
from bigcl.hooks import Meter, WriteMetrics
from bigcl.log import Log
from bigcl.mesh import batch_sharding
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
    config["train"]["steps"] = args.steps * args.rounds
    experiment = Experiment(**config)
    step = experiment.compile_step()
    state = experiment.init()
    feed = Feed(experiment.loader.batches(0), batch_sharding(experiment.mesh))
    fixed = feed.take()
    bare, loop, dispatch = [], [], []
    for _ in range(10):  # the call returns when the step is on its way
        jax.block_until_ready(state)
        start = time.perf_counter()
        state, _metrics = step(state, fixed)
        dispatch.append(time.perf_counter() - start)
    with tempfile.TemporaryDirectory() as folder:
        write = WriteMetrics(
            experiment,
            Log(pathlib.Path(folder), steps=args.steps * args.rounds),
            Meter(experiment, feed, 0, Watchdog(pathlib.Path(folder), 0)),
        )
        for round in range(args.rounds):
            start = time.perf_counter()
            for _ in range(args.steps):
                state, metrics = step(state, fixed)
            jax.block_until_ready(state)
            bare.append((time.perf_counter() - start) / args.steps)
            start = time.perf_counter()
            for i in range(args.steps):
                with jax.transfer_guard("disallow"):
                    state, metrics = step(state, feed.take())
                if (i + 1) % write.every == 0:
                    write(round * args.steps + i + 1, state, metrics)
            jax.block_until_ready(state)
            loop.append((time.perf_counter() - start) / args.steps)
    feed.close()
    with tempfile.TemporaryDirectory() as cache:
        config = args.config if args.argument is None else f"{args.config}:{args.argument}"
        cold, warm = (seconds_to_first_step(config, cache) for _ in range(2))
    result = {
        "benchmark": "overhead",
        "config": args.config,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "jax": jax.__version__,
        "bare_ms": 1e3 * statistics.median(bare),
        "dispatch_ms": 1e3 * statistics.median(dispatch),
        "dispatch_share": statistics.median(dispatch) / statistics.median(bare),
        "loop_ms": 1e3 * statistics.median(loop),
        "overhead": statistics.median(b / a for a, b in zip(bare, loop, strict=True)) - 1,
        "first_step_cold_seconds": cold,
        "first_step_warm_seconds": warm,
        "input_wait_fraction": feed.waited / sum(loop) / args.steps,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

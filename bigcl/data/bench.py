"""How fast the input pipeline of a config is, and what holds it up: `python -m bigcl.data bench --config FILE`.

First every stage alone, in one thread: reading, each transform, stacking a batch. Then the pipeline as the config runs
it, with its workers, or with each number of --workers. Where the parts take longer than the processor works for them,
they wait: for the disk or the network.
"""

import argparse
import dataclasses
import itertools
import json
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bigcl.data.loader import Loader, available_cores, example_rng, stack
from bigcl.data.pipeline import config_argument, open_pipeline, parse_args
from bigcl.data.sources import BadRecord, Example, Source, reads, source_name
from bigcl.data.sources.arrayrecord import ArrayRecord
from bigcl.data.transforms import Transform

_TOGETHER = 16  # as the loader does it
_ALIKE = 0.05


def main(argv: list[str]) -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser("python -m bigcl.data bench", description=__doc__.split("\n\n")[0])
    config_argument(parser)
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="for the stages, and again for the whole (default 10)"
    )
    parser.add_argument(
        "--workers", type=int, nargs="+", help="tries these numbers of worker processes, not that of the config"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, not a table")
    args = parse_args(parser, argv)
    pipeline = open_pipeline(args.config)
    pipeline.loader.spec()  # ends here, and says why, where no example can be used
    stages, examples = time_stages(pipeline.source, pipeline.transforms, pipeline.loader, args.seconds)
    rates = {}
    for workers in args.workers or [pipeline.loader.workers]:
        pipeline.loader.workers = workers
        rates[workers] = time_loader(pipeline.loader, args.seconds)
    numbers = summary(stages, examples, rates, pipeline.loader)
    print(json.dumps(numbers, indent=1) if args.json else table(numbers, pipeline.source))


@dataclasses.dataclass
class Stage:
    """Time of one stage. seconds: on the clock; busy: of them, those in which this thread used a processor or, where
    the system tells, stood in line for one."""

    name: str
    seconds: float = 0.0
    busy: float = 0.0

    def __enter__(self) -> "Stage":
        self.began = busy_time(), time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds += time.perf_counter() - self.began[1]
        self.busy += busy_time() - self.began[0]


def busy_time() -> float:
    """Seconds that this thread has used a processor or stood in line for one (Linux), or has used one (elsewhere)."""
    used = time.thread_time()
    try:
        _, in_line, _ = pathlib.Path("/proc/thread-self/schedstat").read_text().split()
        return used + int(in_line) / 1e9
    except (OSError, ValueError):
        return used


def time_stages(
    source: Source, transforms: Sequence[Transform], loader: Loader, seconds: float
) -> tuple[list[Stage], int]:
    """Makes batches of a run in one thread, for so many seconds after the first batch, which is not counted, since
    files are opened there; returns the stages, and of how many examples they are."""
    names = ["read", *(type(transform).__name__ for transform in transforms), "stack"]
    stages, deadline, examples = [], np.inf, 0
    for step in itertools.count():
        if step <= 1:
            stages, examples = [Stage(name) for name in names], 0
            deadline = time.perf_counter() + seconds if step else np.inf
        elif time.perf_counter() > deadline:
            break
        examples += make_batch(source, transforms, loader, step, stages)
    return stages, examples


def make_batch(
    source: Source, transforms: Sequence[Transform], loader: Loader, step: int, stages: Sequence[Stage]
) -> int:
    """One batch, stage by stage, without its bad records; returns its size."""
    rows: list[Any] = []
    for indices, rngs in groups(loader, step):
        with stages[0]:
            examples = [None if isinstance(e, BadRecord) else e for e in reads(source, indices)]
        for transform, stage in zip(transforms, stages[1:-1], strict=True):
            with stage:
                examples = [attempt(transform, e, rng) for e, rng in zip(examples, rngs, strict=True)]
        rows += filter(None, examples)
    if rows:
        with stages[-1]:
            stack(rows, source_name(source))
    return len(rows)


def attempt(transform: Transform, example: Example | None, rng: np.random.Generator) -> Example | None:
    """A transformed example, or None if it is a bad record."""
    try:
        return None if example is None else transform(example, rng)
    except BadRecord:
        return None


def groups(loader: Loader, step: int) -> Iterator[tuple[list[int], list[np.random.Generator]]]:
    """The examples of a step, a few at a time, with their random numbers."""
    indices = loader.indices(step).tolist()
    for start in range(0, len(indices), _TOGETHER):
        few = indices[start : start + _TOGETHER]
        yield few, [example_rng(loader.forms[0].seed, step * loader.batch + start + i) for i in range(len(few))]


def time_loader(loader: Loader, seconds: float) -> float:
    """Examples a second of the loader as it is set up, once it runs."""
    batches = loader.batches()
    try:
        for _ in range(1 + loader.prefetch * max(1, loader.workers)):  # what was made ahead of time says nothing
            next(batches)
        began, count = time.perf_counter(), 0
        while time.perf_counter() < began + seconds:
            next(batches)
            count += loader.batch
        return count / (time.perf_counter() - began)
    finally:
        batches.close()


def summary(timed: Sequence[Stage], examples: int, rates: Mapping[int, float], loader: Loader) -> dict[str, Any]:
    """What was measured as plain data; rates in examples a second, times in microseconds an example.

    rates: of the loader, by the number of its workers. Of these, the smallest number counts that is within 5% of the
        fastest.
    """
    total = sum(stage.seconds for stage in timed)
    stages = [
        {
            "stage": stage.name,
            "microseconds": 1e6 * stage.seconds / examples,
            "per_second_per_core": examples / max(stage.seconds, 1e-9),
            "share": stage.seconds / total,
            "waiting": max(0.0, 1 - stage.busy / max(stage.seconds, 1e-9)),
        }
        for stage in timed
    ]
    cores = available_cores()
    workers = min(n for n, rate in rates.items() if rate >= (1 - _ALIKE) * max(rates.values()))
    how = {"per_second": rates[workers], "workers": workers, "prefetch": loader.prefetch, "batch": loader.batch}
    return {
        "stages": stages,
        "bottleneck": max(stages, key=lambda s: float(str(s["share"])))["stage"],
        "per_second_per_core": examples / total,
        "loader": how,
        "by_workers": dict(sorted(rates.items())),
        "cores": cores,
        "examples": examples,
    }


def table(numbers: dict[str, Any], source: Source) -> str:
    """The summary for people."""
    lines = [f"{source_name(source)}, {numbers['examples']:,} examples in one thread", ""]
    lines.append(f"{'stage':<22}{'us/example':>12}{'examples/s/core':>18}{'share':>9}{'waiting':>9}")
    for stage in numbers["stages"]:
        lines.append(
            f"{stage['stage']:<22}{stage['microseconds']:>12,.1f}{stage['per_second_per_core']:>18,.0f}"
            f"{stage['share']:>9.0%}{stage['waiting']:>9.0%}"
        )
    per_core = numbers["per_second_per_core"]
    lines.append(f"{'all':<22}{1e6 / per_core:>12,.1f}{per_core:>18,.0f}")
    loader, worst = numbers["loader"], max(numbers["stages"], key=lambda s: s["share"])
    how = f"{loader['workers']} worker processes" if loader["workers"] else "threads"
    rate, cores = loader["per_second"], numbers["cores"]
    lines += ["", f"the loader, {how}, on {cores} cores: {rate:,.0f} examples/s ({rate / cores:,.0f} a core)"]
    if len(numbers["by_workers"]) > 1:
        tried = ", ".join(f"{n}: {r:,.0f}" for n, r in numbers["by_workers"].items())
        lines.append(f"examples/s by workers: {tried}; set data.workers = {loader['workers']}")
    lines.append(f"bottleneck: {worst['stage']}, {worst['share']:.0%} of the time{advice(worst, source)}")
    return "\n".join(lines)


def advice(stage: dict[str, Any], source: Source) -> str:
    """What kind of slow a stage is."""
    if stage["waiting"] > 0.5:
        return ", most of it waiting, as for a disk or a network"
    if stage["stage"] == "read" and not isinstance(source, ArrayRecord):
        return ", busy: `python -m bigcl.data convert` writes a format that is read faster at random"
    return ", busy"

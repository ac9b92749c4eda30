"""Claims of papers as data: what a recipe's `CLAIM` says, and whether measured numbers bear it out."""

import dataclasses
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from bigcl import registry
from bigcl.registry import ConfigError, Part

Measured = Mapping[str, Mapping[int, Mapping[str, float]]]
"""Metrics of the last row of each run, by run and seed."""

ROUNDING = 1e-12


def recipes(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """The recipes of published methods in a folder, by slug."""
    paths = sorted(folder.glob("*.py"))
    return {path.stem.replace("_", "-"): path for path in paths if path.stem not in ("base", "__init__")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Demand:
    """One number that has to be on the right side of another.

    metric: key of `metrics.jsonl`, without its `eval/`; or several, whose mean it is.
    of: the run whose number it is. minus: the run whose number is subtracted; over: the one it is divided by.
    at_least, at_most: the bound; one of the two.
    each_seed: whether the bound holds for every seed, or for the mean over seeds.
    """

    metric: str | Sequence[str]
    of: str = "method"
    minus: str | None = None
    over: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    each_seed: bool = False

    def __post_init__(self) -> None:
        if (self.at_least is None) == (self.at_most is None):
            raise ConfigError(f"CLAIM: demand on {self.metric!r}: give either at_least or at_most")
        if self.minus is not None and self.over is not None:
            raise ConfigError(f"CLAIM: demand on {self.metric!r}: give either minus or over")

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metric, or all of them."""
        return (self.metric,) if isinstance(self.metric, str) else tuple(self.metric)

    @property
    def runs(self) -> tuple[str, ...]:
        """The run whose number it is, and the one that it is compared with."""
        return tuple(run for run in (self.of, self.minus, self.over) if run is not None)

    def number(self, measured: Measured, run: str, seed: int) -> float:
        """The metric of a run, or the mean of the metrics."""
        return statistics.fmean(look_up(measured, run, seed, metric) for metric in self.metrics)

    def value(self, measured: Measured, seed: int) -> float:
        """The number of one seed."""
        number = self.number(measured, self.of, seed)
        if self.minus is not None:
            return number - self.number(measured, self.minus, seed)
        return number / self.number(measured, self.over, seed) if self.over is not None else number

    def judge(self, measured: Measured, seeds: Sequence[int]) -> "Verdict":
        """What came of it."""
        values = tuple(self.value(measured, seed) for seed in seeds)
        mean = statistics.fmean(values)
        if self.over is not None:  # the ratio of means, which one small denominator does not rule
            top, bottom = (
                statistics.fmean(self.number(measured, run, seed) for seed in seeds) for run in (self.of, self.over)
            )
            mean = top / bottom
        judged = values if self.each_seed else (mean,)
        holds = all(self.fulfilled(value) for value in judged)
        return Verdict(self, values, mean, deviation(values), holds)

    def fulfilled(self, value: float) -> bool:
        """Whether a number is on the right side of the bound or, but for the rounding of sums, on it; one that is none
        is not."""
        if self.at_least is not None:
            return value >= self.at_least - ROUNDING
        return value <= (self.at_most or 0.0) + ROUNDING

    def __str__(self) -> str:
        number = f"{' and '.join(self.metrics)} of {self.of}"
        number += f" minus {self.minus}" if self.minus else f" over {self.over}" if self.over else ""
        return f"{number} {self.bound}"

    @property
    def bound(self) -> str:
        """As ">= 0.03", with whether every seed must be there."""
        bound = f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"
        return f"{bound}{', every seed' if self.each_seed else ''}"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A demand and its numbers: by seed, their mean and standard deviation, and whether it holds."""

    demand: Demand
    values: tuple[float, ...]
    mean: float
    deviation: float
    holds: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """The section `CLAIM` of a recipe.

    runs: arguments of `get_config`, each trained with every seed on the same data and budget.
    seeds: for data, initial weights and order.
    demands: all of them have to hold.
    """

    runs: Sequence[str] = ("baseline", "method")
    seeds: Sequence[int] = (0, 1, 2)
    demands: Sequence[Annotated[Part, Demand]]

    def __post_init__(self) -> None:
        for demand in self.judged():
            for run in demand.runs:
                if run not in self.runs:
                    raise ConfigError(f"CLAIM: demand on {demand.metric!r}: {registry.nearest(run, self.runs)}")

    def judged(self) -> list[Demand]:
        """The demands."""
        return [Demand(**demand) for demand in self.demands]

    def verdicts(self, measured: Measured, seeds: Sequence[int]) -> list[Verdict]:
        """One for each demand."""
        return [demand.judge(measured, seeds) for demand in self.judged()]


def deviation(values: Sequence[float]) -> float:
    """Standard deviation of a sample; 0 of one value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def make_claim(given: Mapping[str, Any], where: str) -> Claim:
    """Raises ConfigError, naming the key, for a claim that says what it cannot."""
    given = {k: list(v) if isinstance(v, tuple) else v for k, v in given.items()}
    registry.check_call(Claim, given, f"{where}: CLAIM")
    return Claim(**given)


def look_up(measured: Measured, run: str, seed: int, metric: str) -> float:
    """A number of a run. Raises ConfigError for one that the run has not."""
    row = measured[run][seed]
    for key in (f"eval/{metric}", metric):
        if key in row:
            return row[key]
    known = {k.removeprefix("eval/") for k in row if k.startswith("eval/")} or set(row)
    raise ConfigError(f"CLAIM: the run {run!r} has no metric {metric!r}; {registry.nearest(metric, known)}")

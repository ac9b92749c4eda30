"""A run as its workdir tells it, and numbers as people read them."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from bigcl.log import read_rows

Series = tuple[Float[np.ndarray, "t"], Float[np.ndarray, "t"]]


@dataclasses.dataclass(frozen=True)
class Run:
    """The resolved config, the rows of `metrics.jsonl`, and what `environment.json` tells of versions and hardware."""

    name: str
    config: Mapping[str, Any]
    rows: list[dict[str, Any]]
    environment: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def read(cls, workdir: pathlib.Path) -> "Run":
        """The run in `workdir`.

        Raises:
            FileNotFoundError: there is no `config.json`, so this is no workdir.
            ValueError: one of its files is broken; the message names it.
        """
        config = workdir / "config.json"
        if not config.exists():
            raise FileNotFoundError(f"{config} is missing: {workdir} is not the workdir of a run")
        path = config
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
            path = workdir / "metrics.jsonl"
            rows = read_rows(path)
            path = workdir / "environment.json"
            environment = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        except ValueError as error:
            raise ValueError(f"{path} is not JSON ({error}); repair or remove it") from error
        return cls(workdir.resolve().name, settings, [row for row in rows if "step" in row], environment)

    def series(self, key: str) -> Series:
        """Steps and finite values of a metric, by rising step; of repeated steps the last row counts."""
        points = {row["step"]: row[key] for row in self.rows if is_finite(row.get(key))}
        steps = sorted(points)
        return np.array(steps, float), np.array([points[step] for step in steps], float)

    def last(self, key: str) -> float | None:
        """The final value of a metric, if it was ever logged."""
        values = self.series(key)[1]
        return float(values[-1]) if len(values) else None

    @property
    def evaluations(self) -> list[str]:
        """Keys of all evaluation metrics, in the order of the log."""
        keys = dict.fromkeys(key for row in self.rows for key in row if key.startswith("eval/"))
        return [key for key in keys if self.last(key) is not None]

    @property
    def step(self) -> int:
        """The last logged step, 0 for an empty log."""
        return max((row["step"] for row in self.rows), default=0)

    @property
    def steps(self) -> int:
        """The planned steps; the last logged one where the config does not say."""
        return int(self.train.get("steps") or self.step)

    @property
    def train(self) -> Mapping[str, Any]:
        """The config's `train` section."""
        return self.config.get("train") or {}

    @property
    def seconds(self) -> float:
        """Time spent in training steps, from the speed of each logged stretch."""
        steps, pace = self.series("ms_per_step")
        return float(np.sum(np.diff(steps, prepend=0) * pace)) / 1e3

    @property
    def pairs(self) -> int:
        """Pairs seen, repeats counted."""
        return int(self.last("examples_seen") or self.step * self.train.get("batch", 0))


def is_finite(value: Any) -> bool:
    """Whether `value` is a number that can be drawn."""
    return isinstance(value, int | float) and math.isfinite(value)


def is_share(key: str) -> bool:
    """Whether a metric of this name is a fraction of 1, to be read as a percentage."""
    last = key.rsplit("/", 1)[-1]
    return any(word in last for word in ("recall", "accuracy", "precision", "fraction"))


def percent(value: float) -> str:
    """`57.3%`; more digits below one percent."""
    return f"{100 * value:.2f}%" if 0 < value < 0.01 else f"{100 * value:.1f}%"


def percent_tick(value: float) -> str:
    """`50%`: a percentage without digits that an axis does not need."""
    return f"{short(100 * value)}%"


def short(value: float) -> str:
    """Three telling digits: `0.0123`, `5e-04`, `1,540`, `122k`, `3.4M`."""
    size = abs(value)
    for unit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if size >= max(unit, 1e4):
            return f"{value / unit:.3g}{letter}"
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0e}" if 0 < size < 1e-3 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """`41 s`, `3 min 50 s`, `5 h 02 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s" if whole > 9 else f"{seconds:.2g} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02} min"


def words(key: str) -> str:
    """A metric's or side's name as words: `text_to_image` becomes `text to image`."""
    return key.replace("_to_", " → ").replace("_", " ")

"""The page of several runs side by side: curves over each other, final numbers with differences, what was set
otherwise."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bigcl import __version__
from bigcl.report.curves import CURVES, Chart, telemetry_keys, tick
from bigcl.report.figures import COLOURS, Line, line_chart
from bigcl.report.page import asset, template
from bigcl.report.run import Run, duration, is_share, short
from bigcl.report.sweep import form, lower_is_better, title

OF_A_PAIR = ("positive_similarity", "negative_similarity", "accuracy", "effective_negatives", "alignment")
"""The telemetry of a pair."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """A run's value of a metric, and how it differs from that of the first run. tone: better, worse or nothing."""

    value: str
    difference: str = ""
    tone: str = ""


def render_comparison(runs: Sequence[Run]) -> str:
    """The page as HTML; each run but the first is held against the first. Raises ValueError without a run."""
    if not runs:
        raise ValueError("a comparison needs one run or more")
    names = distinct(runs)
    tones = [f"c{min(i, COLOURS - 1)}" for i in range(len(runs))]
    evaluations = list(dict.fromkeys(key for run in runs for key in run.evaluations))
    training = [key for key, *_ in CURVES if any(run.last(key) is not None for run in runs)]
    telemetry = [
        f"{pair}/{part}"
        for pair in dict.fromkeys(p for run in runs for p in telemetry_keys(run, "/effective_negatives"))
        for part in OF_A_PAIR
    ]
    return template("compare.html.j2").render(
        style=asset("style.css"),
        runs=[(name, tone, facts(run)) for name, tone, run in zip(names, tones, runs, strict=True)],
        evaluation=charts(runs, tones, evaluations),
        training=charts(runs, tones, [*training, *telemetry]),
        metrics=[(title(key), cells(runs, key)) for key in [*evaluations, "loss"]],
        settings=settings(runs),
        version=__version__,
    )


def distinct(runs: Sequence[Run]) -> list[str]:
    """Names of the runs, numbered where they are the same."""
    names = [run.name for run in runs]
    return [name if names.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(names, 1)]


def facts(run: Run) -> list[tuple[str, str]]:
    """How far a run is and how long it took."""
    pace = run.series("pairs_per_second")[1]
    rows = [("steps", f"{run.step:,} of {run.steps:,}")]
    rows += [("training", duration(run.seconds))] if run.seconds else []
    return rows + ([("pairs/s, median", short(float(np.median(pace))))] if len(pace) else [])


def charts(runs: Sequence[Run], tones: Sequence[str], keys: Sequence[str]) -> list[Chart]:
    """A chart of each metric that ever changed in some run, with a line for each run."""
    known = {key: (name, look, zero) for key, name, look, zero in CURVES}
    found = []
    for key in keys:
        name, look, zero = known.get(key, (title(key), form(key), is_share(key)))
        smooth = not key.startswith("eval/") and key not in ("learning_rate", "temperature")
        lines = [
            Line(*points, tone=tone, smooth=smooth)
            for run, tone in zip(runs, tones, strict=True)
            if len((points := run.series(key))[0]) > 1
        ]
        if any(len(set(line.y)) > 1 for line in lines):
            figure = line_chart(lines, label=f"{name} over steps", form=tick(look), zero=zero)
            found.append(Chart(name, "", figure))
    return found


def cells(runs: Sequence[Run], key: str) -> list[Cell]:
    """The last value of a metric of each run."""
    first, row = runs[0].last(key), []
    for i, run in enumerate(runs):
        value = run.last(key)
        if value is None:
            row.append(Cell(""))
        elif not i or first is None:
            row.append(Cell(form(key)(value)))
        else:
            row.append(Cell(form(key)(value), *difference(key, value - first)))
    return row


def difference(key: str, by: float) -> tuple[str, str]:
    """A difference as it is read, in points of a share, and whether it is better or worse. Of many a metric, such as a
    count of examples or a cosine, neither can be said."""
    written = (
        f"{100 * by:+.1f} pts" if is_share(key) else f"{'+' if by > 0 else '−' if by < 0 else '±'}{short(abs(by))}"
    )
    low, high = lower_is_better(key), is_share(key) or any(w in key for w in ("ndcg", "reciprocal", "spearman", "/r2"))
    if not by or not (low or high):
        return written, ""
    return written, "better" if (by < 0) == (low and not high) else "worse"


def settings(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """What is not set alike in the configs: key, and the value of each run."""
    flats = [flat(run.config) for run in runs]
    keys = dict.fromkeys(key for each in flats for key in each)
    rows = [(key, [str(each.get(key, "")) for each in flats]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def flat(config: Any, where: str = "") -> dict[str, Any]:
    """Values of a config by their dotted keys."""
    if isinstance(config, list) and any(isinstance(v, Mapping | list) for v in config):
        config = {str(i): v for i, v in enumerate(config)}
    if not isinstance(config, Mapping):
        return {where: config}
    return {k: v for name, part in config.items() for k, v in flat(part, f"{where}.{name}" if where else name).items()}

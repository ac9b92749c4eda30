"""The page of a sweep: a table of its members, each metric against each swept value, parallel coordinates."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from bigcl import __version__
from bigcl.files import replacing
from bigcl.report.figures import clip
from bigcl.report.page import asset, template
from bigcl.report.run import Run, is_finite, is_share, percent, short, words
from bigcl.report.svg import path, tag, ticks

LOWER = ("loss", "median_rank", "rank_variance", "error", "mae")
"""Words in the names of metrics of which less is better."""

MOST = 6  # metrics that are drawn; the table has all


@dataclasses.dataclass(frozen=True)
class Point:
    """A member: what was set, and what came of it. `step` of `steps`: how far it is."""

    name: str
    settings: Mapping[str, Any]
    metrics: Mapping[str, float]
    step: int
    steps: int


def build_sweep_report(folder: pathlib.Path) -> pathlib.Path:
    """Writes `folder/report.html` from `sweep.json` and the members' own files, and returns its path.

    Raises:
        FileNotFoundError: `folder` has no `sweep.json`.
        ValueError: one of the files is broken; the message names it.
    """
    source = folder / "sweep.json"
    if not source.exists():
        raise FileNotFoundError(f"{source} is missing: {folder} is not the folder of a sweep")
    try:
        sweep = json.loads(source.read_text(encoding="utf-8"))
        points = [read_point(folder / name, name, settings) for name, settings in sweep["members"].items()]
    except (KeyError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{source} is no description of a sweep ({error!r}); repair or remove it") from error
    target = folder / "report.html"
    with replacing(target) as partial:
        partial.write_text(render_sweep(folder.resolve().name, sweep["sweep"], points), encoding="utf-8")
    return target


def read_point(workdir: pathlib.Path, name: str, settings: Mapping[str, Any]) -> Point:
    """A member as its workdir tells it; one that has not begun has no metrics."""
    if not (workdir / "config.json").exists():
        return Point(name, settings, {}, 0, 0)
    run = Run.read(workdir)
    keys = [*run.evaluations, "loss"]
    last = {key: value for key in keys if (value := run.last(key)) is not None}
    return Point(name, settings, last, run.step, run.steps)


def render_sweep(name: str, source: str, points: Sequence[Point]) -> str:
    """The page as HTML. Members come with the best of the first metric first."""
    metrics = list(dict.fromkeys(key for point in points for key in point.metrics))
    swept = list(dict.fromkeys(key for point in points for key in point.settings))
    if metrics:
        sign = 1 if lower_is_better(metrics[0]) else -1
        points = sorted(points, key=lambda p: sign * p.metrics.get(metrics[0], sign * np.inf))
    drawn = metrics[:MOST] if metrics else []
    charts = [
        (f"{title(metric)} by {key.rsplit('.', 1)[-1]}", scatter(points, key, metric))
        for metric in drawn
        for key in swept
    ]
    return template("sweep.html.j2").render(
        name=name,
        source=source,
        style=asset("style.css"),
        done=sum(p.steps > 0 and p.step >= p.steps for p in points),
        points=points,
        header=[*swept, *map(title, metrics), "steps"],
        rows=[
            [
                *(setting(p.settings.get(key, "")) for key in swept),
                *(form(key)(p.metrics[key]) if key in p.metrics else "" for key in metrics),
                f"{p.step:,} of {p.steps:,}" if p.steps else "not begun",
            ]
            for p in points
        ],
        charts=[chart for chart in charts if chart[1]],
        parallel=parallel(points, swept, drawn[0]) if drawn else None,
        metric=title(drawn[0]) if drawn else "",
        version=__version__,
    )


def lower_is_better(metric: str) -> bool:
    """Whether less of a metric is better, by its name."""
    return any(word in metric for word in LOWER)


def title(metric: str) -> str:
    """A metric's name as words."""
    return " · ".join(words(part) for part in metric.removeprefix("eval/").split("/"))


def setting(value: Any) -> str:
    """A swept value in a cell: what a search has drawn has more digits than anyone reads."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def form(metric: str) -> Any:
    """How its values are written."""
    return percent if is_share(metric) else short


class Axis:
    """Values on a line from 0 to 1: numbers by size, of one sign and over more than a factor of 8 by their logarithm;
    anything else evenly, in order of first use."""

    def __init__(self, values: Sequence[Any]):
        self.levels = list(dict.fromkeys(values))
        self.numeric = all(is_finite(v) and not isinstance(v, bool) for v in values)
        least, most = (min(values), max(values)) if self.numeric else (0, len(self.levels) - 1)
        self.log = self.numeric and least > 0 and most / least > 8
        self.low, self.high = (np.log(least), np.log(most)) if self.log else (least, most)

    def __call__(self, value: Any) -> float:
        """Where a value lies."""
        x = (np.log(value) if self.log else value) if self.numeric else self.levels.index(value)
        return float((x - self.low) / (self.high - self.low)) if self.high > self.low else 0.5

    def marks(self, most: int = 5) -> list[tuple[float, str]]:
        """Places and labels: the values themselves where they are few, else round numbers."""
        values = sorted(self.levels) if self.numeric else self.levels
        if self.numeric and len(values) > most:
            values = (
                log_ticks(values[0], values[-1]) if self.log else ticks(float(self.low), float(self.high), most - 1)
            )
        elif len(values) > most:
            values = [values[i] for i in np.linspace(0, len(values) - 1, most).round().astype(int)]
        return [(self(v), short(v) if self.numeric else clip(str(v), 12)) for v in values]


def log_ticks(least: float, most: float) -> list[float]:
    """Powers of ten within [least, most], with 2 and 5 times them where they are few."""
    powers = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        found = [f * 10.0**p for p in powers for f in factors if least <= f * 10.0**p <= most]
        if len(found) <= 5:
            break
    return found[:: 1 + (len(found) - 1) // 5]


def scatter(points: Sequence[Point], key: str, metric: str) -> Markup | None:
    """A metric against a swept value: a dot for each member, and a line through the medians where several share their
    values. None for fewer than two values."""
    known = [(p, p.settings[key], p.metrics[metric]) for p in points if key in p.settings and metric in p.metrics]
    if len({value for _, value, _ in known}) < 2:
        return None
    left, right, top, bottom = 44, 330, 10, 160
    across, down = Axis([value for _, value, _ in known]), Axis([y for _, _, y in known])
    down.log, down.low, down.high = False, min(down.levels), max(down.levels)

    def place(value: Any, y: float) -> tuple[float, float]:
        return left + 12 + across(value) * (right - left - 24), bottom - 8 - down(y) * (bottom - top - 16)

    marks = []
    for t in y_ticks(down):
        at = bottom - 8 - down(t) * (bottom - top - 16)
        marks.append(tag("line", x1=left, x2=right, y1=at, y2=at, class_="grid"))
        marks.append(tag("text", form(metric)(t), x=left - 7, y=at + 3.5, text_anchor="end"))
    for at, text in across.marks():
        marks.append(tag("text", text, x=left + 12 + at * (right - left - 24), y=bottom + 16, text_anchor="middle"))
    values = sorted(across.levels, key=across)
    if len(known) >= 2 * len(values):
        medians = [place(v, float(np.median([y for _, value, y in known if value == v]))) for v in values]
        x, y = np.array(medians).T
        marks.append(tag("path", d=path(x, y), class_="line middle ink"))
    for point, value, result in known:
        cx, cy = place(value, result)
        said = f"{point.name}: {form(metric)(result)}"
        marks.append(tag("g", tag("circle", tag("title", said), cx=cx, cy=cy, r=4), class_="point first"))
    spoken = f"{title(metric)} against {key}"
    return tag("svg", *marks, viewBox="0 0 340 190", class_="chart", role="img", aria_label=spoken)


def y_ticks(axis: Axis) -> list[float]:
    """Round numbers of a vertical axis."""
    return ticks(float(axis.low), float(axis.high), 4) if axis.high > axis.low else [float(axis.low)]


def parallel(points: Sequence[Point], swept: Sequence[str], metric: str) -> Markup | None:
    """Parallel coordinates (Inselberg 1985): an axis for each swept value and one for the metric, a line for each
    member, the stronger the better. None for fewer than two members with a result."""
    known = [p for p in points if metric in p.metrics and all(key in p.settings for key in swept)]
    if len(known) < 2 or not swept:
        return None
    columns = [*([p.settings[key] for p in known] for key in swept), [p.metrics[metric] for p in known]]
    axes = [Axis(column) for column in columns]
    axes[-1].log, axes[-1].low, axes[-1].high = False, min(columns[-1]), max(columns[-1])
    left, right, top, bottom = 60, 740, 30, 260
    xs = np.linspace(left, right, len(axes))
    marks = []
    for i in reversed(range(len(known))):  # the best on top
        y = np.array([bottom - axis(column[i]) * (bottom - top) for axis, column in zip(axes, columns, strict=True)])
        good = 1 - axes[-1](columns[-1][i]) if lower_is_better(metric) else axes[-1](columns[-1][i])
        said = f"{known[i].name}: {form(metric)(columns[-1][i])}"
        look = {"class_": "line first", "stroke_opacity": f"{0.12 + 0.88 * good:.2f}"}
        marks.append(tag("path", tag("title", said), d=path(xs, y), **look))
    for x, axis, name in zip(xs, axes, [k.rsplit(".", 1)[-1] for k in [*swept, metric.replace("/", ".")]], strict=True):
        anchor = "end" if x == right else "start" if x == left else "middle"
        marks.append(tag("line", x1=x, x2=x, y1=top, y2=bottom, class_="grid"))
        marks.append(tag("text", name, x=x, y=top - 14, text_anchor=anchor, class_="name ink"))
        labels = axis.marks() if axis is not axes[-1] else [(axis(t), form(metric)(t)) for t in y_ticks(axis)]
        for at, text in labels:
            line = bottom - at * (bottom - top) + 3.5
            marks.append(tag("text", text, x=x - 7, y=line, text_anchor="end", class_="over"))
    label = f"Settings and {title(metric)} of every member"
    return tag("svg", *marks, viewBox="0 0 800 280", class_="chart wide", role="img", aria_label=label)

"""The charts of a run: training and evaluation metrics over steps."""

import dataclasses
from collections.abc import Callable

from markupsafe import Markup

from bigcl.report.figures import Line, line_chart
from bigcl.report.run import Run, is_share, percent, percent_tick, short, words

# Metric, title, form of its values, whether the axis starts at 0.
CURVES: tuple[tuple[str, str, Callable[[float], str], bool], ...] = (
    ("loss", "Loss", short, False),
    ("temperature", "Temperature", short, False),
    ("learning_rate", "Learning rate", short, True),
    ("grad_norm", "Gradient norm", short, True),
    ("pairs_per_second", "Pairs per second", short, True),
    ("input_wait_fraction", "Waiting for input", percent, True),
)
SHADES = ("strong", "middle", "light")


@dataclasses.dataclass(frozen=True)
class Chart:
    """A chart with its title and last value."""

    title: str
    last: str
    figure: Markup


def training_charts(run: Run) -> list[Chart]:
    """A chart for every known training metric that was logged more than once."""
    charts = []
    for key, title, form, zero in CURVES:
        steps, values = run.series(key)
        if len(steps) > 1:
            line = Line(steps, values, smooth=key not in ("learning_rate", "temperature"))
            figure = line_chart([line], label=f"{title} over steps", form=tick(form), zero=zero)
            charts.append(Chart(title, form(float(values[-1])), figure))
    return charts


def evaluation_charts(run: Run) -> list[Chart]:
    """A chart for every evaluation metric that ever changed; metrics that differ in `@k` alone share one."""
    families: dict[str, list[str]] = {}
    for key in run.evaluations:
        if len(set(run.series(key)[1])) > 1:
            families.setdefault(key.partition("@")[0], []).append(key)
    charts = []
    for family, keys in families.items():
        title = " · ".join(words(part) for part in family.removeprefix("eval/").split("/"))
        form = percent if is_share(family) else short
        lines = []
        for key, shade in zip(keys, [*SHADES, *[SHADES[-1]] * len(keys)], strict=False):
            name = f"@{key.partition('@')[2]}" if len(keys) > 1 else ""
            lines.append(Line(*run.series(key), name=name, tone=f"{tone(family)} {shade}"))
        figure = line_chart(lines, label=f"{title} over steps", form=tick(form), zero=is_share(family))
        charts.append(Chart(title, form(float(lines[0].y[-1])), figure))
    return charts


def tick(form: Callable[[float], str]) -> Callable[[float], str]:
    """The form of axis labels where `form` is that of values."""
    return percent_tick if form is percent else form


def tone(key: str) -> str:
    """The colour of a direction of search: that of the side it starts from."""
    return "first" if "image_to" in key else "second" if "to_image" in key else "ink"

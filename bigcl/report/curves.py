"""The charts of a run: training and evaluation metrics over steps."""

import dataclasses
from collections.abc import Callable, Collection, Sequence

from markupsafe import Markup

from bigcl.report.figures import Line, line_chart
from bigcl.report.run import Run, is_share, percent, percent_tick, short, words

# Metric, title, form of its values, whether the axis starts at 0.
CURVES: tuple[tuple[str, str, Callable[[float], str], bool], ...] = (
    ("loss", "Loss", short, False),
    ("temperature", "Temperature", short, False),
    ("learning_rate", "Learning rate", short, True),
    ("grad_norm", "Gradient norm", short, True),
    ("param_norm", "Parameter norm", short, False),
    ("pairs_per_second", "Pairs per second", short, True),
    ("input_wait_fraction", "Waiting for input", percent, True),
)
# Title, form, whether the axis starts at 0, and for each metric of a pair its name in the chart and its tone.
TELEMETRY: tuple[tuple[str, Callable[[float], str], bool, tuple[tuple[str, str, str], ...]], ...] = (
    (
        "Cosine in the batch",
        short,
        False,
        (("positive_similarity", "right", "good"), ("negative_similarity", "wrong", "muted")),
    ),
    ("Accuracy in the batch", percent, True, (("accuracy", "", "ink"),)),
    ("Effective negatives", short, True, (("effective_negatives", "", "ink"),)),
    ("Alignment", short, True, (("alignment", "", "ink"),)),
)
TONES = ("first", "second")
SHADES = ("strong", "middle", "light")


@dataclasses.dataclass(frozen=True)
class Chart:
    """A chart with its title and last value."""

    title: str
    last: str
    figure: Markup


def training_charts(run: Run, keys: Collection[str]) -> list[Chart]:
    """A chart for each of these training metrics that was logged more than once."""
    charts = []
    for key, title, form, zero in CURVES:
        if key not in keys:
            continue
        steps, values = run.series(key)
        if len(steps) > 1:
            line = Line(steps, values, smooth=key not in ("learning_rate", "temperature"))
            figure = line_chart([line], label=f"{title} over steps", form=tick(form), zero=zero)
            charts.append(Chart(title, form(float(values[-1])), figure))
    return charts


def telemetry_charts(run: Run) -> list[Chart]:
    """What the loss does to its batches: for each pair of inputs that is contrasted, how evenly each input is spread,
    and for a mixture the loss of each source."""
    charts = []
    pairs = telemetry_keys(run, "/effective_negatives")
    for pair in pairs:
        of = f", {words(pair)}" if len(pairs) > 1 else ""
        for title, form, zero, parts in TELEMETRY:
            charts.append(
                several(run, title + of, form, zero, [(f"{pair}/{key}", name, tone) for key, name, tone in parts])
            )
    inputs = telemetry_keys(run, "/uniformity")
    spread = [(f"{name}/uniformity", name, tone) for name, tone in zip(inputs, tones(inputs), strict=True)]
    charts.append(several(run, "Uniformity", short, False, spread))
    keys = sorted({key for row in run.rows for key in row if key.startswith("loss_of/")})
    sources = [(key, key.partition("/")[2], tone) for key, tone in zip(keys, tones(keys), strict=True)]
    charts.append(several(run, "Loss by source", short, False, sources))
    return [chart for chart in charts if chart is not None]


def tones(names: Sequence[str]) -> list[str]:
    """A tone for each of several lines of a chart."""
    return [*TONES, *["ink"] * len(names)][: len(names)]


def telemetry_keys(run: Run, end: str) -> list[str]:
    """What comes before `end` in the names of training metrics."""
    keys = dict.fromkeys(k for row in run.rows for k in row if k.endswith(end) and not k.startswith("eval/"))
    return [key.removesuffix(end) for key in keys]


def several(
    run: Run, title: str, form: Callable[[float], str], zero: bool, parts: Sequence[tuple[str, str, str]]
) -> Chart | None:
    """A chart of metrics, each with its name in the chart and its tone; None where none was logged more than once."""
    lines = [
        Line(*points, name=name, tone=tone, smooth=True)
        for key, name, tone in parts
        if len((points := run.series(key))[0]) > 1
    ]
    if not lines:
        return None
    last = " / ".join(form(float(line.y[-1])) for line in lines)
    return Chart(title, last, line_chart(lines, label=f"{title} over steps", form=tick(form), zero=zero))


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

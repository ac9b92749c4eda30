"""The numbers of a report: the few big ones at its head, and the tables."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from bigcl.log import clock
from bigcl.report.run import Run, duration, is_share, percent, short, words
from bigcl.report.showcase import Direction, Showcase


@dataclasses.dataclass(frozen=True)
class Big:
    """A number at the head of the page, with what it is and what to hold it against."""

    value: str
    label: str
    note: str = ""
    tone: str = "ink"


def headline(run: Run, showcase: Showcase | None) -> list[Big]:
    """What matters first, where it is known: recall both ways, median rank, zero-shot accuracy, time, pairs seen."""
    numbers = retrieval_numbers(run, showcase) + zero_shot_numbers(run)
    if run.seconds:
        pace = float(np.median(run.series("ms_per_step")[1]))
        numbers.append(Big(clock(run.seconds), "training time", f"{short(pace)} ms a step"))
    if run.pairs:
        note = f"{run.step:,} steps of {run.train['batch']:,}" if "batch" in run.train else ""
        numbers.append(Big(short(run.pairs), "pairs seen", note))
    return numbers


def lede(run: Run, showcase: Showcase | None) -> Markup:
    """The run in at most two sentences."""
    sentences = []
    if showcase is not None:
        direction, count = showcase.from_text, candidates(run, showcase)
        recall = evaluated(run, direction, "recall@1", direction.found.recall(1))
        asked = Markup("Asked with a {}, this model puts the right {} of {:,} first <b>{}</b> of the time; ").format(
            direction.source, direction.target, count, percent(recall)
        )
        sentences.append(asked + f"chance would be {percent(1 / count)}.")
    if run.step:
        time = f" in {duration(run.seconds)}" if run.seconds else ""
        done = f"Trained for {run.step:,} steps{time}."
        sentences.append(escape(done if run.step >= run.steps else f"At step {run.step:,} of {run.steps:,}."))
    return Markup(" ").join(sentences)


def retrieval_numbers(run: Run, showcase: Showcase | None) -> list[Big]:
    """Recall at 1 both ways and the median rank, as evaluated; from the gallery where they were not."""
    if showcase is None:
        keys = [key for key in run.evaluations if key.endswith("/recall@1")]
        return [Big(percent(run.last(key) or 0.0), f"{words(key.split('/')[-2])} recall@1") for key in keys]
    count, numbers, medians = candidates(run, showcase), [], []
    for direction, tone in ((showcase.from_text, "second"), (showcase.from_image, "first")):
        recall = evaluated(run, direction, "recall@1", direction.found.recall(1))
        medians.append(short(evaluated(run, direction, "median_rank", float(np.median(direction.found.rank)))))
        label = f"{direction.source} → {direction.target} recall@1"
        numbers.append(Big(percent(recall), label, f"chance {percent(1 / count)}", tone))
    ways = "both ways" if medians[0] == medians[1] else f"{showcase.from_text.source} / {showcase.from_image.source}"
    return [*numbers, Big(" / ".join(dict.fromkeys(medians)), "median rank", f"of {count:,}, {ways}")]


def evaluated(run: Run, direction: Direction, metric: str, otherwise: float) -> float:
    """The last logged value of a metric of a direction, whatever the evaluator was called."""
    end = f"/{direction.source}_to_{direction.target}/{metric}"
    values = [run.last(key) for key in run.evaluations if key.endswith(end)]
    return next((value for value in values if value is not None), otherwise)


def candidates(run: Run, showcase: Showcase) -> int:
    """How many targets each query had in the evaluation: all that it counted, of which the gallery may hold a part."""
    end = f"/{showcase.from_text.source}_to_{showcase.from_text.target}/recall@1"
    counts = [run.last(key.removesuffix(end) + "/examples") for key in run.evaluations if key.endswith(end)]
    return next((int(count) for count in counts if count), len(showcase.gallery))


def zero_shot_numbers(run: Run) -> list[Big]:
    """The accuracy of every zero-shot evaluator, with the mean over classes, which may be of very different size."""
    numbers = []
    for key in run.evaluations:
        if "zero_shot" in key and key.endswith("/accuracy@1"):
            mean = run.last(key.replace("accuracy@1", "mean_per_class_accuracy"))
            note = "" if mean is None else f"class mean {percent(mean)}"
            numbers.append(Big(percent(run.last(key) or 0.0), "zero-shot accuracy", note))
    return numbers


@dataclasses.dataclass(frozen=True)
class Row:
    """A metric: its last value and, where it was measured more often, its best with the step."""

    name: str
    last: str
    best: str
    step: str


def metrics_table(run: Run) -> list[tuple[str, list[Row]]]:
    """Final evaluation metrics and the last training metrics, by section."""
    sections: dict[str, list[Row]] = {}
    for key in run.evaluations:
        *section, name = key.removeprefix("eval/").split("/")
        sections.setdefault(" · ".join(words(part) for part in section), []).append(metric_row(run, key, words(name)))
    training = [key for key in ("loss", "temperature", "grad_norm", "learning_rate") if run.last(key) is not None]
    if training:
        sections["training"] = [metric_row(run, key, words(key)) for key in training]
    return list(sections.items())


def metric_row(run: Run, key: str, name: str) -> Row:
    """The row of one metric. Best is the highest share, the lowest median rank or loss, and unknown for others."""
    steps, values = run.series(key)
    form = percent if is_share(key) else short
    last = form(float(values[-1]))
    high, low = is_share(key) or name == "mean reciprocal rank", name in ("median rank", "loss")
    pick = np.argmax if high else np.argmin if low else None
    if pick is None or len(values) < 2:
        return Row(name, last, "", "")
    best = int(pick(values))
    return Row(name, last, form(float(values[best])), f"{steps[best]:,.0f}")


def timing_table(run: Run) -> list[tuple[str, str]]:
    """Where the time went."""
    rows = [("steps", f"{run.step:,} of {run.steps:,}")] if run.step else []
    if run.seconds:
        rows.append(("training, without start-up and evaluation", duration(run.seconds)))
    medians: tuple[tuple[str, str, Callable[[float], str]], ...] = (
        ("ms_per_step", "one step", lambda value: f"{short(value)} ms"),
        ("pairs_per_second", "throughput", lambda value: f"{short(value)} pairs/s"),
        ("tflops", "model arithmetic", lambda value: f"{short(value)} TFLOP/s"),
        ("mfu", "share of peak arithmetic (MFU)", percent),
        ("input_wait_fraction", "waiting for input", percent),
    )
    for key, name, form in medians:
        values = run.series(key)[1]
        if len(values):
            rows.append((f"{name}, median", form(float(np.median(values)))))
    skipped = run.last("skipped_steps")
    if skipped is not None:
        rows.append(("steps skipped as not finite", f"{skipped:,.0f}"))
    return rows


def environment_table(run: Run) -> list[tuple[str, str]]:
    """Versions and hardware, nested names joined by a space."""

    def flat(name: str, value: Any) -> list[tuple[str, str]]:
        if isinstance(value, Mapping):
            return [row for key, part in value.items() for row in flat(f"{name} {key}", part)]
        return [(words(name.strip()), str(value))]

    return flat("", run.environment)

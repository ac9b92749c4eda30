"""The table of published methods, docs/papers.md, from what `bigcl.reproduce` measured; and the plot of one of them."""

import ast
import json
import math
import pathlib
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bigcl.claims import Demand, Measured, recipes
from bigcl.files import replacing
from bigcl.registry import ConfigError
from bigcl.report.run import short
from bigcl.report.svg import tag, ticks

ROOT = pathlib.Path(__file__).parents[2]
COLOURS = ("#8a8f98", "#2f6fed", "#d9822b", "#3a9d5d", "#a04fc4")
WIDTH, ROW, LABEL = 640, 26, 150

HEAD = """# Published methods

Each is a recipe of `configs/papers/`: shared parts, and at most one small new part. The claim of its paper, at a size
for a laptop, is trained and judged by

    python -m bigcl.reproduce SLUG          # or --all

baseline and method on the same data, steps and tuning. This page is written from the results, by
`python -m bigcl.reproduce --table --out docs/results`; numbers are means over the seeds, with the deviation of what is
judged, and in parentheses what the claim demands of it. "other seeds" are a second experiment, of seeds that were not
looked at when the recipe was made, but for seed 5 of `align`, `dreamlip`, `mmvp-mof` and `supremix`. "goldens" counts
stored calls of the authors' own functions, or of an independent implementation, with which bigcl's agree
(`tests/goldens/`).

"""


def dots(title: str, groups: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """An SVG: for each metric a row for each run, with a dot for each seed and a line at their mean."""
    rows, y, parts = sum(len(runs) + 2 for runs in groups.values()), 30.0, []
    parts.append(tag("text", title, x=12, y=20, font_size=15, font_weight="bold"))
    for metric, runs in groups.items():
        values = [v for found in runs.values() for v in found if math.isfinite(v)] or [0.0]
        low, high = min(values), max(values)
        pad = 0.08 * (high - low) or max(abs(high), 1.0) * 0.05
        low, high = low - pad, high + pad

        def across(value: float, low: float = low, high: float = high) -> float:
            return LABEL + (WIDTH - LABEL - 20) * (value - low) / (high - low)

        y += ROW
        parts.append(tag("text", metric, x=12, y=y - 8, font_size=12, fill="#555"))
        for tick in ticks(low, high, 5):
            x = across(tick)
            parts.append(tag("line", x1=x, x2=x, y1=y, y2=y + ROW * len(runs), stroke="#ddd"))
            parts.append(
                tag(
                    "text",
                    short(tick),
                    x=x,
                    y=y + ROW * len(runs) + 14,
                    font_size=10,
                    fill="#777",
                    text_anchor="middle",
                )
            )
        for i, (run, found) in enumerate(runs.items()):
            middle, colour = y + ROW * (i + 0.5), COLOURS[i % len(COLOURS)]
            parts.append(tag("text", run, x=12, y=middle + 4, font_size=12))
            mean = across(sum(found) / len(found))
            parts.append(tag("line", x1=mean, x2=mean, y1=middle - 9, y2=middle + 9, stroke=colour, stroke_width=2.5))
            parts += [tag("circle", cx=across(v), cy=middle, r=4, fill=colour, fill_opacity=0.6) for v in found]
        y += ROW * (len(runs) + 1)
    height = 40 + ROW * rows
    drawn = tag(
        "svg",
        tag("rect", width=WIDTH, height=height, fill="white"),
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        width=WIDTH,
        height=height,
        font_family="system-ui, sans-serif",
    )
    return str(drawn)


def write_table(results: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
    """Writes the page from `results/SLUG.json`, where there are `results/other-seeds/SLUG.json` and
    `results/SLUG.plan.json` (what `bigcl.plan --json` prints) from these, and the recipes' docstrings. Raises
    ConfigError where there are no results."""
    known = recipes(ROOT / "configs" / "papers")
    if not any((results / f"{slug}.json").exists() for slug in known):
        raise ConfigError(f"{results}: no results of any recipe; give their folder, as --out docs/results")
    rows = [row(slug, path, results) for slug, path in known.items()]
    lines = [
        "| method | paper | what is new | claim, measured | goldens | at paper scale | command |",
        "|---|---|---|---|--:|---|---|",
        *rows,
    ]
    with replacing(path) as partial:
        partial.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")
    return path


def row(slug: str, recipe: pathlib.Path, results: pathlib.Path) -> str:
    """One line of the table. The docstring's first sentence is the paper; a line "New: ..." says what is new."""
    doc = ast.get_docstring(ast.parse(recipe.read_text(encoding="utf-8"))) or ""
    paper = re.split(r"(?<=[.:])(?<!et al\.) ", doc.split("\n\n")[0].replace("\n", " "), maxsplit=1)[0].rstrip(".:")
    found = re.search(r"New: (.+?)(?:\n\n|$)", doc, re.DOTALL)
    new = found[1].replace("\n", " ").strip() if found else ""
    result = read(results / f"{slug}.json")
    claim = "not measured" if result is None else measured(result)
    if other := read(results / "other-seeds" / f"{slug}.json"):
        claim += f"<br>other seeds: {measured(other)}"
    plan = read(results / f"{slug}.plan.json")
    memory = plan and plan["memory"]
    scale = (
        ""
        if plan is None
        else f"{plan['topology']}: {memory['peak'] / 1e9:.1f} of {memory['limit'] / 1e9:.0f} GB a chip"
    )
    cells = (f"`{slug}`", paper, new, claim, goldens(slug), scale, f"`python -m bigcl.reproduce {slug}`")
    escaped = [str(cell).replace("|", "&#124;") for cell in cells]
    return f"| {' | '.join(escaped)} |"


def measured(result: Mapping[str, Any]) -> str:
    """What was measured with some seeds."""
    rows = {run: {int(seed): row for seed, row in rows.items()} for run, rows in result["runs"].items()}
    lines = [demand(found, rows, result["seeds"]) for found in result["demands"]]
    return "<br>".join([*lines, f"seeds {', '.join(map(str, result['seeds']))}; {result['seconds']} s"])


def demand(found: Mapping[str, Any], rows: Measured, seeds: Sequence[int]) -> str:
    """A demand with its numbers."""
    asked = Demand(**{k: found[k] for k in ("metric", "of", "minus", "over", "at_least", "at_most", "each_seed")})
    means = {run: statistics.fmean(asked.number(rows, run, seed) for seed in seeds) for run in asked.runs}
    number = f"{short(found['mean'])} ± {short(found['deviation'])}"
    if len(means) > 1:
        sides = ", ".join(f"{run} {short(mean)}" for run, mean in means.items())
        number = f"{sides}, {'difference' if asked.minus else 'ratio'} {number}"
    else:
        number = f"{asked.of} {number}"
    sign = "" if found["holds"] else "**does not hold**: "
    return f"{sign}{' and '.join(asked.metrics)}: {number} ({asked.bound})"


def goldens(slug: str) -> str:
    """Stored calls of this method."""
    meta = read(ROOT / "tests" / "goldens" / "data" / slug / "meta.json")
    return "" if meta is None else str(sum(len(function["cases"]) for function in meta["functions"]))


def read(path: pathlib.Path) -> Any:
    """A JSON file, or None where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

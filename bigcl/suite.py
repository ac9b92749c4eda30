"""Suites: many evaluators on one model, each kept when it is done, and one table of them all.

A suite is a Python file with `get_suite(arg, inputs) -> {name: evaluator part}`: `arg` is what follows the colon on the
command line, `inputs` says what the model reads (see `Inputs`), so that a suite prepares pictures and texts as the
model wants them.
"""

import csv
import io
import json
import math
import pathlib
import runpy
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from bigcl import host, registry
from bigcl.config import plain
from bigcl.evals import Encode
from bigcl.files import replacing
from bigcl.registry import ConfigError, Part


class Inputs(dict[str, Sequence[int]]):
    """The shape of an example of each input that a model reads, by name.

    pictures: the transforms after which a picture, encoded or not, is as the model was made to see it; None where
        nothing tells.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]], transforms: Sequence[Part] = ()):
        """transforms: those that prepare an example for the model, of which the ones for pictures are taken."""
        super().__init__(shapes)
        kinds = {part["kind"] for part in transforms}
        fixed = kinds & {"resize", "center_crop", "naflex"} and not kinds & {"random_crop", "random_resized_crop"}
        shaping = ("decode_image", "resize", "center_crop", "naflex")
        self.pictures = [part for part in transforms if part["kind"] in shaping] if fixed else None


class Skipped(NamedTuple):
    """A member without numbers. reason: what is missing, and the command that prepares it, or what went wrong."""

    name: str
    reason: str


def read_suite(argument: str, inputs: Inputs) -> dict[str, Part]:
    """The members of a suite file, `configs/evals/zero_shot.py:arg`, checked. Raises ConfigError."""
    file, _, arg = argument.partition(":")
    if not pathlib.Path(file).is_file():
        raise FileNotFoundError(f"--suite: no file {file}")
    make = runpy.run_path(file).get("get_suite")
    if make is None:
        raise ConfigError(f"{file}: has no get_suite(arg, inputs)")
    parts = plain(make(arg or None, inputs))
    for name, part in parts.items():
        if not name or pathlib.PurePath(name).name != name or name.startswith("."):
            raise ConfigError(f"{file}: the member {name!r} cannot be the name of a file")
        registry.check("evaluator", part, f"{pathlib.Path(file).stem}.{name}")
    return parts


def run_suite(
    parts: Mapping[str, Part],
    encode: Encode,
    out: pathlib.Path,
    *,
    model: Mapping[str, Any],
    say: Callable[[str], None] = print,
    **context: Any,
) -> tuple[dict[str, dict[str, float]], list[Skipped], list[Skipped]]:
    """The numbers of each member by its name, what was skipped because its data or a package is not there, and what
    failed. After a failure the others still run; on several processes it is raised, as those would wait for this one.

    out: folder of `members/<name>.json`, written as each is done, and of the tables `results.md`, `.csv` and `.json`. A
        member that is there with the same part and the same `model` is not run again.
    model: plain data that says which weights these are.
    context: what evaluators are built with: mesh, tokenizer.
    """
    found: dict[str, dict[str, float]] = {}
    skipped: list[Skipped] = []
    failed: list[Skipped] = []
    for name, part in parts.items():
        path, key = out / "members" / f"{name}.json", {"model": dict(model), "part": plain(part)}
        kept = finished(path, key)
        if host.agreed(kept is not None):
            found[name] = kept or {}
            say(f"{name}: kept")
            continue
        evaluator, missing = build(part, context)
        if not host.everywhere(missing is None):
            skipped.append(Skipped(name, missing or "another process cannot read its data"))
            say(f"{name}: skipped: {skipped[-1].reason}")
            continue
        try:
            found[name] = evaluator.run(encode)
        except Exception as error:
            if jax.process_count() > 1:
                raise
            traceback.print_exc()
            failed.append(Skipped(name, f"{type(error).__name__}: {error}"))
            say(f"{name}: failed: {failed[-1].reason}")
            continue
        if jax.process_index() == 0:
            write(path, json.dumps({**key, "numbers": encodable(found[name])}, indent=1) + "\n")
        say(f"{name}: " + ", ".join(f"{metric} {value:.4g}" for metric, value in list(found[name].items())[:4]))
    if jax.process_index() == 0:
        write(out / "results.md", markdown(found, skipped, failed, model))
        write(out / "results.csv", table(found))
        everything = {"model": dict(model), "results": {k: encodable(v) for k, v in found.items()}}
        write(
            out / "results.json",
            json.dumps({**everything, "skipped": dict(skipped), "failed": dict(failed)}, indent=1) + "\n",
        )
    return found, skipped, failed


def build(part: Part, context: Mapping[str, Any]) -> tuple[Any, str | None]:
    """The evaluator, or what is missing for it."""
    try:
        return registry.build("evaluator", part, **context), None
    except (FileNotFoundError, ImportError) as error:
        return None, str(error)


def finished(path: pathlib.Path, key: Mapping[str, Any]) -> dict[str, float] | None:
    """The numbers of a member that was run before with the same part and model, unless its file is broken."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if any(record.get(k) != v for k, v in key.items()):
            return None
        return {k: math.nan if v is None else float(v) for k, v in record["numbers"].items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None


def encodable(numbers: Mapping[str, float]) -> dict[str, float | None]:
    """Numbers for JSON, which has no NaN."""
    return {k: float(v) if math.isfinite(v) else None for k, v in numbers.items()}


def markdown(
    found: Mapping[str, Mapping[str, float]],
    skipped: Sequence[Skipped],
    failed: Sequence[Skipped],
    model: Mapping[str, Any],
) -> str:
    """One table of all members, and the lists of what was skipped and of what failed."""
    lines = ["# Evaluation", "", ", ".join(f"{k}: {v}" for k, v in model.items()), ""]
    lines += ["| evaluation | metric | value |", "|---|---|--:|"]
    for name, part in found.items():
        lines += [f"| {escaped(name)} | {escaped(metric)} | {value:.4g} |" for metric, value in part.items()]
    if skipped:
        lines += ["", "## Skipped", "", "Their data or a package is not there; each line says how to prepare it.", ""]
        lines += [f"- **{name}**: {reason}" for name, reason in skipped]
    if failed:
        lines += ["", "## Failed", "", *(f"- **{name}**: {reason}" for name, reason in failed)]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """A name inside a row of a Markdown table."""
    return text.replace("|", "&#124;")


def table(found: Mapping[str, Mapping[str, float]]) -> str:
    """Rows of evaluation, metric and value as CSV."""
    out = io.StringIO()
    rows = [(name, metric, repr(float(value))) for name, part in found.items() for metric, value in part.items()]
    csv.writer(out, lineterminator="\n").writerows([("evaluation", "metric", "value"), *rows])
    return out.getvalue()


def write(path: pathlib.Path, text: str) -> None:
    """A whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")

"""Confirms claims of papers: `python -m bigcl.reproduce symile [--seeds 0,1,2]`, `--all` for every recipe.

Trains what `CLAIM` in configs/papers/SLUG.py compares, each run with every seed, judges the demands, writes
OUT/SLUG.json and a plot beside it. Exit status 0 only if every claim holds; one whose runs fail does not keep the
others from being tried. Runs live in WORKDIR/SLUG/RUN-SEED; the same command with the same code goes on with those that
are not finished. --table writes docs/papers.md from the results in OUT.
"""

from bigcl import host

if __name__ == "__main__":
    host.prepare()

import argparse
import contextlib
import functools
import hashlib
import io
import json
import pathlib
import runpy
import shutil
import signal
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import tqdm

from bigcl.claims import Claim, Measured, Verdict, deviation, make_claim, recipes
from bigcl.config import plain
from bigcl.files import replacing
from bigcl.notice import Interrupted
from bigcl.registry import ConfigError, nearest

PAPERS = pathlib.Path(__file__).parents[1] / "configs" / "papers"

SECONDS = "seconds"
"""A file in the folder of a run: how long it has taken."""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="bigcl.reproduce", description=__doc__.split("\n\n")[0])
    parser.add_argument("slugs", nargs="*", metavar="SLUG", help="recipes of configs/papers/")
    parser.add_argument("--all", action="store_true", help="every recipe that makes a claim")
    parser.add_argument("--seeds", type=numbers, metavar="0,1,2", help="default: those of the claim")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("results"))
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/reproduce"))
    parser.add_argument("--table", action="store_true", help="write docs/papers.md from the results in --out")
    options = parser.parse_args(argv)
    try:
        if options.table:
            from bigcl.report.papers import write_table

            print(f"table: {write_table(options.out, PAPERS.parents[1] / 'docs' / 'papers.md')}")
            return 0
        slugs = list(recipes(PAPERS)) if options.all else options.slugs
        if not slugs:
            parser.error("give recipes, or --all")
        loaded = {slug: load(slug) for slug in slugs}
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    failed = []
    for slug, (recipe, claim) in loaded.items():
        try:
            holds = reproduce(slug, recipe, claim, options.seeds or claim.seeds, options.workdir / slug, options.out)
        except Interrupted as stop:
            print(f"{slug}: {stop}; the same command goes on", file=sys.stderr)
            return 130 if stop.signal == signal.SIGINT else host.REQUEUE
        except (ValueError, OSError, ImportError, RuntimeError) as error:  # such as a run that diverged
            print(f"error: {slug}: {error}", file=sys.stderr)
            holds = False
        failed += [] if holds else [slug]
    print(f"{len(slugs) - len(failed)} of {len(slugs)} claims hold" + (f"; not: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def numbers(text: str) -> tuple[int, ...]:
    """Seeds, as "0,1,2"."""
    return tuple(int(part) for part in text.split(","))


def load(slug: str) -> tuple[Mapping[str, Any], Claim]:
    """A recipe's names, and its claim."""
    path = PAPERS / f"{slug.replace('-', '_')}.py"
    if not path.exists():
        raise ConfigError(f"no recipe {slug!r} in configs/papers; {nearest(slug, recipes(PAPERS))}")
    recipe = runpy.run_path(str(path))
    if "CLAIM" not in recipe:
        raise ConfigError(f"{path.name} makes no CLAIM")
    return recipe, make_claim(recipe["CLAIM"], path.name)


def reproduce(
    slug: str,
    recipe: Mapping[str, Any],
    claim: Claim,
    seeds: Sequence[int],
    workdir: pathlib.Path,
    out: pathlib.Path,
) -> bool:
    """Trains, judges, prints and writes. Whether the claim holds."""
    measured: dict[str, dict[int, dict[str, float]]] = {run: {} for run in claim.runs}
    pairs, seconds = [(run, seed) for seed in seeds for run in claim.runs], 0.0
    environment: dict[str, Any] = {}
    with tqdm(pairs, desc=slug, unit="run", disable=None) as bar:
        for run, seed in bar:
            bar.set_postfix_str(f"{run}, seed {seed}")
            config = plain(recipe["get_config"](f"{run},seed={seed}"))
            measured[run][seed], environment = train(config, workdir / f"{run}-{seed}")
            seconds += float((workdir / f"{run}-{seed}" / SECONDS).read_text())
    verdicts = claim.verdicts(measured, seeds)
    print(table(slug, seeds, verdicts, measured))
    result = {
        "slug": slug,
        "holds": all(v.holds for v in verdicts),
        "seeds": list(seeds),
        "demands": [described(v, seeds) for v in verdicts],
        "runs": {run: {str(seed): row for seed, row in rows.items()} for run, rows in measured.items()},
        "seconds": round(seconds),
        "environment": environment,
    }
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / f"{slug}.json") as partial:
        partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    plot(slug, claim, measured, verdicts, out / f"{slug}.svg")
    return bool(result["holds"])


def train(config: dict[str, Any], workdir: pathlib.Path) -> tuple[dict[str, float], dict[str, Any]]:
    """The last row of a run and its environment; a run that is there, of this config and this code, is not trained
    again."""
    import jax

    from bigcl.log import read_rows
    from bigcl.stages import last_stage, resolved
    from bigcl.train import run

    began, last = time.monotonic(), last_stage(config, workdir)
    wanted = {"config": resolved(config), "code": code(), "packages": host.versions()}
    recipe, took = workdir / "recipe.json", workdir / SECONDS
    if workdir.exists() and (not recipe.exists() or json.loads(recipe.read_text()) != wanted):
        shutil.rmtree(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    recipe.write_text(json.dumps(wanted))
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            run(config, workdir, report=False)
    except BaseException:
        print(said.getvalue(), file=sys.stderr)
        raise
    finally:
        jax.clear_caches()  # programs of a run that is over
        before = float(took.read_text()) if took.exists() else 0.0
        took.write_text(f"{before + time.monotonic() - began:.1f}")
    row = read_rows(last / "metrics.jsonl")[-1]
    kept = {
        k: float(v) for k, v in row.items() if isinstance(v, int | float) and (k.startswith("eval/") or k == "loss")
    }
    return kept, json.loads((last / "environment.json").read_text())


@functools.cache
def code() -> str:
    """A digest of this package: results of other code are no results of this one."""
    digest = hashlib.sha256()
    for path in sorted(pathlib.Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def table(slug: str, seeds: Sequence[int], verdicts: Sequence[Verdict], measured: Measured) -> str:
    """The demands as text, a line each; below each comparison what is compared."""
    lines = [f"\n{slug}: {'the claim holds' if all(v.holds for v in verdicts) else 'the claim does NOT hold'}"]
    width = max(len(str(v.demand)) for v in verdicts)

    def line(name: str, verdict: str, values: Sequence[float], mean: float, deviation: float) -> str:
        cells = "".join(f"{value:>10.4f}" for value in (*values, mean, deviation))
        return f"  {name:<{width}}  {verdict:>4}{cells}"

    heads = "".join(f"{head:>10}" for head in [*(f"seed {seed}" for seed in seeds), "mean", "deviation"])
    lines.append(f"  {'':<{width}}  {'':>4}{heads}")
    for v in verdicts:
        lines.append(line(str(v.demand), "yes" if v.holds else "NO", v.values, v.mean, v.deviation))
        for run in v.demand.runs if len(v.demand.runs) > 1 else ():
            numbers = [v.demand.number(measured, run, seed) for seed in seeds]
            lines.append(line(f"    {run}", "", numbers, statistics.fmean(numbers), deviation(numbers)))
    return "\n".join(lines)


def described(verdict: Verdict, seeds: Sequence[int]) -> dict[str, Any]:
    """A verdict as plain data."""
    demand = verdict.demand
    return {
        "demand": str(demand),
        "metric": demand.metric,
        "of": demand.of,
        "minus": demand.minus,
        "over": demand.over,
        "at_least": demand.at_least,
        "at_most": demand.at_most,
        "each_seed": demand.each_seed,
        "by_seed": {str(seed): value for seed, value in zip(seeds, verdict.values, strict=True)},
        "mean": verdict.mean,
        "deviation": verdict.deviation,
        "holds": verdict.holds,
    }


def plot(
    slug: str,
    claim: Claim,
    measured: Mapping[str, Mapping[int, Mapping[str, float]]],
    verdicts: Sequence[Verdict],
    path: pathlib.Path,
) -> None:
    """Each metric of the claim: a dot for each seed of each run, and their mean."""
    try:
        from bigcl.report.papers import dots
    except ImportError:  # without the extra `report` there is the table alone
        return
    from bigcl.claims import look_up

    metrics = list(dict.fromkeys(metric for v in verdicts for metric in v.demand.metrics))
    groups = {m: {r: [look_up(measured, r, s, m) for s in rows] for r, rows in measured.items()} for m in metrics}
    path.write_text(dots(slug, groups), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())

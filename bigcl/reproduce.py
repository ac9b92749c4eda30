"""Confirms claims of papers: `python -m bigcl.reproduce symile [--seeds 0,1,2]`, `--all` for every recipe.

Trains what `CLAIM` in configs/papers/SLUG.py compares, each run with every seed, judges the demands, writes
OUT/SLUG.json and a plot beside it. Exit status 0 only if every claim holds. Runs live in WORKDIR/SLUG/RUN-SEED; the
same command goes on with those that are not finished. --table writes docs/papers.md from the results in OUT.
"""

from bigcl import host

if __name__ == "__main__":
    host.prepare()

import argparse
import contextlib
import io
import json
import pathlib
import runpy
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import tqdm

from bigcl.claims import Claim, Verdict, make_claim
from bigcl.config import plain
from bigcl.files import replacing
from bigcl.registry import ConfigError, nearest

PAPERS = pathlib.Path(__file__).parents[1] / "configs" / "papers"


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
    if options.table:
        from bigcl.report.papers import write_table

        print(f"table: {write_table(options.out, PAPERS.parents[1] / 'docs' / 'papers.md')}")
        return 0
    try:
        slugs = [path.stem.replace("_", "-") for path in recipes()] if options.all else options.slugs
        if not slugs:
            parser.error("give recipes, or --all")
        loaded = {slug: load(slug) for slug in slugs}
        failed = [
            slug
            for slug, (recipe, claim) in loaded.items()
            if not reproduce(slug, recipe, claim, options.seeds or claim.seeds, options.workdir / slug, options.out)
        ]
    except (ConfigError, FileNotFoundError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{len(slugs) - len(failed)} of {len(slugs)} claims hold" + (f"; not: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def numbers(text: str) -> tuple[int, ...]:
    """Seeds, as "0,1,2"."""
    return tuple(int(part) for part in text.split(","))


def recipes() -> list[pathlib.Path]:
    """Recipes of published methods."""
    return sorted(path for path in PAPERS.glob("*.py") if path.stem not in ("base", "__init__"))


def load(slug: str) -> tuple[Mapping[str, Any], Claim]:
    """A recipe's names, and its claim."""
    path = PAPERS / f"{slug.replace('-', '_')}.py"
    if not path.exists():
        known = [path.stem.replace("_", "-") for path in recipes()]
        raise ConfigError(f"no recipe {slug!r} in configs/papers; {nearest(slug, known)}")
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
    began, pairs = time.monotonic(), [(run, seed) for seed in seeds for run in claim.runs]
    environment: dict[str, Any] = {}
    with tqdm(pairs, desc=slug, unit="run", disable=None) as bar:
        for run, seed in bar:
            bar.set_postfix_str(f"{run}, seed {seed}")
            config = plain(recipe["get_config"](f"{run},seed={seed}"))
            measured[run][seed], environment = train(config, workdir / f"{run}-{seed}")
    verdicts = claim.verdicts(measured, seeds)
    print(table(slug, seeds, verdicts))
    result = {
        "slug": slug,
        "holds": all(v.holds for v in verdicts),
        "seeds": list(seeds),
        "demands": [described(v, seeds) for v in verdicts],
        "runs": {run: {str(seed): row for seed, row in rows.items()} for run, rows in measured.items()},
        "seconds": round(time.monotonic() - began),
        "environment": environment,
    }
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / f"{slug}.json") as partial:
        partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    plot(slug, claim, measured, verdicts, out / f"{slug}.svg")
    return bool(result["holds"])


def train(config: dict[str, Any], workdir: pathlib.Path) -> tuple[dict[str, float], dict[str, Any]]:
    """The last row of a run and its environment; a run that is there with this config is not trained again."""
    import jax

    from bigcl.log import read_rows
    from bigcl.stages import last_stage, resolved
    from bigcl.train import run

    wanted, last = resolved(config), last_stage(config, workdir)
    recipe = workdir / "recipe.json"
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
    row = read_rows(last / "metrics.jsonl")[-1]
    kept = {
        k: float(v) for k, v in row.items() if isinstance(v, int | float) and (k.startswith("eval/") or k == "loss")
    }
    return kept, json.loads((last / "environment.json").read_text())


def table(slug: str, seeds: Sequence[int], verdicts: Sequence[Verdict]) -> str:
    """The demands as text, a line each."""
    lines = [f"\n{slug}: {'the claim holds' if all(v.holds for v in verdicts) else 'the claim does NOT hold'}"]
    width = max(len(str(v.demand)) for v in verdicts)
    heads = "".join(f"{head:>10}" for head in [*(f"seed {seed}" for seed in seeds), "mean", "deviation"])
    lines.append(f"  {'':<{width}}  {'':>4}{heads}")
    for v in verdicts:
        cells = "".join(f"{value:>10.4f}" for value in v.values)
        verdict = "yes" if v.holds else "NO"
        lines.append(f"  {v.demand!s:<{width}}  {verdict:>4}{cells}{v.mean:>10.4f}{v.deviation:>10.4f}")
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

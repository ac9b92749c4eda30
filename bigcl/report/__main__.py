"""Writes the report of a run again, `python -m bigcl.report --workdir runs/emoji`; that of a sweep,
`python -m bigcl.report --sweep runs/emoji_lr`; or one of several runs side by side, each against the first,
`python -m bigcl.report --runs runs/emoji runs/wide --out comparison.html`."""

import argparse
import pathlib
import sys

from bigcl import host
from bigcl.report import build_comparison, build_report, build_sweep


def main() -> None:
    """Reads the folders, writes the page and prints where it is."""
    parser = argparse.ArgumentParser(prog="python -m bigcl.report", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--workdir", type=pathlib.Path, help="the folder of a run")
    which.add_argument("--runs", type=pathlib.Path, nargs="+", help="the folders of several runs")
    which.add_argument("--sweep", type=pathlib.Path, help="the folder of a sweep")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("comparison.html"), help="page of --runs")
    args = parser.parse_args()
    try:
        if args.runs:
            print(build_comparison(args.runs, args.out))
        else:
            print(build_report(args.workdir) if args.workdir else build_sweep(args.sweep))
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    host.end_with_reader()
    main()

"""Writes the report of a run again, `python -m bigcl.report --workdir runs/emoji`, or that of a sweep,
`python -m bigcl.report --sweep runs/emoji_lr`."""

import argparse
import pathlib
import sys

from bigcl.report import build_report, build_sweep


def main() -> None:
    """Reads the workdir, writes its `report.html` and prints where it is."""
    parser = argparse.ArgumentParser(prog="python -m bigcl.report", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--workdir", type=pathlib.Path, help="the folder of a run")
    which.add_argument("--sweep", type=pathlib.Path, help="the folder of a sweep")
    args = parser.parse_args()
    try:
        print(build_report(args.workdir) if args.workdir else build_sweep(args.sweep))
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

"""Writes the report of a run again: `python -m bigcl.report --workdir runs/emoji`."""

import argparse
import pathlib
import sys

from bigcl.report import build_report


def main() -> None:
    """Reads the workdir, writes its `report.html` and prints where it is."""
    parser = argparse.ArgumentParser(prog="python -m bigcl.report", description=__doc__)
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="the folder of a run")
    try:
        print(build_report(parser.parse_args().workdir))
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

"""Runs bigcl on a folder of stored numbers: `python -m tests.goldens.check --data DIR [--slug SLUG]`.

DIR holds `<slug>/cases.npz` and `<slug>/meta.json`. Prints a line for each case with its largest difference (see
`harness.difference`); exits with 1 if a case fails.
"""

import argparse
import pathlib
import sys

from tests.goldens import harness


def main(argv: list[str] | None = None) -> int:
    """The number of the exit: 0 if there are cases and all are within their tolerance."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=pathlib.Path, required=True, metavar="DIR", help="holds <slug>/cases.npz and <slug>/meta.json"
    )
    parser.add_argument("--slug", help="only this one; by default all folders of DIR")
    options = parser.parse_args(argv)
    folders = sorted(
        path.parent for path in options.data.glob("*/meta.json") if options.slug in (None, path.parent.name)
    )
    if not folders:
        print(f"no {options.slug or '<slug>'}/meta.json under {options.data}", file=sys.stderr)
        return 1
    passed = [check(case) for folder in folders for case in harness.load(folder)]
    print(f"{sum(passed)} of {len(passed)} cases within tolerance")
    return 0 if all(passed) else 1


def check(case: harness.Case) -> bool:
    """Runs one case and prints its line."""
    try:
        found = harness.differences(case, harness.adapter(case.slug)[case.function])
    except Exception as error:  # the other cases are still worth running
        print(f"FAIL {case} {case.function}: {type(error).__name__}: {error}")
        return False
    name, worst = max(found.items(), key=lambda item: item[1])
    passed = worst <= case.tolerance
    print(
        f"{'ok  ' if passed else 'FAIL'} {case} {case.function}: {worst:.1e} at {name} "
        f"(tolerance {case.tolerance:.0e}, {len(found)} arrays)"
    )
    return passed


if __name__ == "__main__":
    sys.exit(main())

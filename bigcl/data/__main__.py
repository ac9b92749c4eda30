"""Commands about data: `python -m bigcl.data COMMAND --help`.

index           finds the samples in tar shards, so that they can be read at random
convert         writes ArrayRecord files or tars from any source
inspect         a page with a batch, as the model will see it
bench           how fast the input pipeline is, and what holds it up
blind-pairs     pairs that one model takes for the same and another does not, from embeddings of both
neighbours      the nearest of each example, from embeddings: hard negatives
distant-labels  which sentences a picture of their page shows, from embeddings of both
"""

import importlib
import sys

from bigcl import host

COMMANDS = {
    "index": "bigcl.data.index",
    "convert": "bigcl.data.convert",
    "inspect": "bigcl.data.inspect",
    "bench": "bigcl.data.bench",
    "blind-pairs": "bigcl.data.mining",
    "neighbours": "bigcl.data.neighbours",
    "distant-labels": "bigcl.data.distant_labels",
}


def main(argv: list[str]) -> None:
    """Runs one command; errors that a user can mend are one line, and one more for the place."""
    if not argv or argv[0] not in COMMANDS:
        print(__doc__)
        sys.exit(0 if argv and argv[0] in ("-h", "--help") else 2)
    try:
        importlib.import_module(COMMANDS[argv[0]]).main(argv[1:])
    except (ImportError, OSError, ValueError) as error:
        sys.exit("\n".join([f"error: {error}", *getattr(error, "__notes__", ())]))


if __name__ == "__main__":
    host.end_with_reader()
    main(sys.argv[1:])

"""Looks for what is near: `python -m bigcl.search build|query|serve`.

    python -m bigcl.embed --checkpoint runs/emoji --data '{"kind": "emoji", "split": "test"}' --out emoji/embeddings
    python -m bigcl.search build --embeddings emoji/embeddings --out emoji/index
    python -m bigcl.search query --index emoji/index --text "a red heart"      # or --image picture.png
    python -m bigcl.search serve --index emoji/index                           # a page at http://127.0.0.1:8000

The weights are opened from where they were when the data was embedded, or from --checkpoint: a run, what
`bigcl.convert` wrote, or an exported folder.
"""

from bigcl import host

if __name__ == "__main__":
    host.prepare()

import argparse
import contextlib
import json
import pathlib
import sys

from absl import logging

from bigcl.checkpoint import CheckpointError


def main(argv: list[str]) -> None:
    """Runs one command; errors that a user can mend are one line."""
    logging.set_verbosity(logging.ERROR)
    parser = argparse.ArgumentParser(
        prog="python -m bigcl.search", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    building = commands.add_parser("build", help="makes an index of a folder of embeddings")
    building.add_argument("--embeddings", type=pathlib.Path, required=True, help="what bigcl.embed wrote")
    building.add_argument("--out", type=pathlib.Path, required=True)
    building.add_argument("--input", help="whose embeddings are looked for (default image where there is one)")
    asking = commands.add_parser("query", help="prints the nearest items")
    serving = commands.add_parser("serve", help="serves a page")
    for command in (asking, serving):
        command.add_argument("--index", type=pathlib.Path, required=True, help="what build wrote")
        command.add_argument("--checkpoint", type=pathlib.Path, help="other than when the data was embedded")
    what = asking.add_mutually_exclusive_group(required=True)
    what.add_argument("--text")
    what.add_argument("--image", type=pathlib.Path, help="a file")
    asking.add_argument("--top", type=int, default=10)
    asking.add_argument("--json", action="store_true", help="print JSON, not a table")
    serving.add_argument("--port", type=int, default=8000)
    serving.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in")
    args = parser.parse_args(argv)
    try:
        {"build": build, "query": query, "serve": serve}[args.command](args)
    except (ValueError, ImportError, OSError, CheckpointError) as error:
        sys.exit(f"error: {error}")


def build(args: argparse.Namespace) -> None:
    """Makes an index."""
    from bigcl.search.index import Index

    index = Index.build(args.embeddings, args.input)
    index.save(args.out)
    print(f"{args.out}: {len(index):,} items by {index.manifest['input']}, {index.manifest['search']} search")


def query(args: argparse.Namespace) -> None:
    """Prints what is nearest."""
    from bigcl.search.engine import Engine

    host.configure_jax()
    engine = Engine.open(args.index, args.checkpoint)
    hits = (
        engine.by_text(args.text, args.top)
        if args.image is None
        else engine.by_picture(args.image.read_bytes(), args.top)
    )
    if args.json:
        print(json.dumps([hit._asdict() for hit in hits], indent=1, ensure_ascii=False))
        return
    for hit in hits:
        print(f"{hit.score:7.4f}  {hit.key}  {hit.text}")


def serve(args: argparse.Namespace) -> None:
    """Serves until Ctrl-C."""
    from bigcl.search.engine import Engine
    from bigcl.search.server import make_server

    host.configure_jax()
    engine = Engine.open(args.index, args.checkpoint)
    with make_server(engine, args.host, args.port) as server:
        print(f"http://{args.host}:{server.server_address[1]}  (Ctrl-C ends it)", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])

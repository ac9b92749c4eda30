"""Writes a page with a batch of a config as the model will see it: pictures, texts, shapes, values, token counts.

python -m bigcl.data inspect --config configs/emoji.py --out batch.html
"""

import argparse
import pathlib

from bigcl.data.loader import BESIDE
from bigcl.data.pipeline import Pipeline, config_argument, open_pipeline, parse_args
from bigcl.data.sources import source_name
from bigcl.files import replacing


def main(argv: list[str]) -> None:
    """Parses, writes, says where."""
    parser = argparse.ArgumentParser("python -m bigcl.data inspect", description=__doc__.split("\n\n")[0])
    config_argument(parser)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("batch.html"), help="default batch.html")
    parser.add_argument("--step", type=int, default=0, help="which batch (default 0, the first one)")
    parser.add_argument("--rows", type=int, default=24, help="how many rows are shown (default 24)")
    args = parse_args(parser, argv)
    name = pathlib.Path(args.config_file.partition(":")[0]).stem
    page = inspect(open_pipeline(args.config), name, args.step, args.rows)
    with replacing(args.out) as partial:
        partial.write_text(page, encoding="utf-8")
    print(args.out.absolute())


def inspect(pipeline: Pipeline, name: str, step: int = 0, rows: int = 24) -> str:
    """The page of the batch of a step, with its first `rows` rows shown. Raises ImportError that names the extra."""
    try:
        from bigcl.report.batch import Sample, render_batch
    except ModuleNotFoundError as error:
        raise ImportError(f"the page needs {error.name}: pip install 'bigcl[report]'") from error
    batch, tokenizer = pipeline.batch(step), pipeline.tokenizer
    sample = Sample(
        name=name,
        step=step,
        source=source_name(pipeline.source),
        size=len(pipeline.source),
        batch={k: v for k, v in batch.items() if k == "index" or k not in BESIDE},
        originals=[dict(pipeline.source[index]) for index in batch["index"][:rows].tolist()],
        pad_id=None if tokenizer is None else tokenizer.pad_id,
        decode=getattr(tokenizer, "decode", None),
        data=pipeline.config["data"],
        attribution=getattr(pipeline.source, "attribution", None),
    )
    return render_batch(sample)

"""Puts the sections of a report together."""

import base64
import hashlib
import importlib.resources
import json
import pathlib

from markupsafe import Markup

from bigcl import __version__
from bigcl.report.curves import evaluation_charts, training_charts
from bigcl.report.gallery import Gallery, load_gallery
from bigcl.report.numbers import environment_table, headline, lede, metrics_table, timing_table
from bigcl.report.run import Run, percent, words
from bigcl.report.showcase import Showcase


def build_report(workdir: pathlib.Path, gallery: Gallery | None = None) -> pathlib.Path:
    """Writes `workdir/report.html` from `config.json` and `metrics.jsonl`, and returns its path.

    Args:
        gallery: what the retrieval evaluator saw; by default `workdir/gallery.npz` if there is one.

    Raises:
        FileNotFoundError: `workdir` has no `config.json`.
        ValueError: one of the files is broken; the message names it.
        ImportError: a package of the `report` extra is missing; the message names it.
    """
    run = Run.read(workdir)
    stored = workdir / "gallery.npz"
    if gallery is None and stored.exists():
        gallery = load_gallery(stored)
    target = workdir / "report.html"
    partial = target.with_name(f".{target.name}.partial")
    partial.write_text(render(run, gallery), encoding="utf-8")
    return partial.replace(target)


def render(run: Run, gallery: Gallery | None) -> str:
    """The page as HTML."""
    try:
        import jinja2
    except ImportError as error:
        raise ImportError("the report needs Jinja2: pip install 'bigcl[report]'") from error
    jinja = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    jinja.filters.update(percent=percent, words=words)
    script = asset("script.js")
    showcase = Showcase.of(gallery) if gallery is not None and len(gallery) > 1 else None
    return jinja.from_string(asset("template.html.j2")).render(
        run=run,
        style=asset("style.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        lede=lede(run, showcase),
        headline=headline(run, showcase),
        training=training_charts(run),
        evaluation=evaluation_charts(run),
        showcase=showcase,
        metrics=metrics_table(run),
        timing=timing_table(run),
        environment=environment_table(run),
        version=__version__,
        config=json.dumps({key: part for key, part in run.config.items() if key != "environment"}, indent=2, ensure_ascii=False),
    )


def asset(name: str) -> Markup:
    """A file of this package, put into the page as it is."""
    return Markup((importlib.resources.files("bigcl.report") / name).read_text(encoding="utf-8"))

"""Puts the sections of a report together."""

import base64
import hashlib
import importlib.resources
import json

import jinja2
from markupsafe import Markup

from bigcl import __version__
from bigcl.report.classes import Classes
from bigcl.report.confusion import confusion_map, mistakes
from bigcl.report.curves import CURVES, evaluation_charts, telemetry_charts, training_charts
from bigcl.report.gallery import Gallery
from bigcl.report.numbers import environment_table, headline, lede, metrics_table, timing_table
from bigcl.report.run import Run, percent
from bigcl.report.showcase import Showcase


def render(run: Run, gallery: Gallery | None, classes: Classes | None = None) -> str:
    """The page as HTML. A gallery of fewer than two pairs is nothing to search in and left out."""
    script = asset("script.js")
    showcase = Showcase.of(gallery) if gallery is not None and len(gallery) > 1 else None
    return template("template.html.j2").render(
        run=run,
        style=asset("style.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        lede=lede(run, showcase),
        headline=headline(run, showcase),
        showcase=showcase,
        classes=classes,
        confusion=confusion_map(classes) if classes else None,
        mistakes=mistakes(classes) if classes else [],
        training=training_charts(run, ["loss"]),
        health=[*training_charts(run, [key for key, *_ in CURVES if key != "loss"]), *telemetry_charts(run)],
        evaluation=evaluation_charts(run),
        metrics=metrics_table(run),
        timing=timing_table(run),
        environment=environment_table(run),
        config=json.dumps(run.config, indent=2, ensure_ascii=False),
        version=__version__,
    )


def template(name: str) -> jinja2.Template:
    """A template of this package: all that it is given is escaped."""
    jinja = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    jinja.filters["percent"] = percent
    return jinja.from_string(asset(name))


def asset(name: str) -> Markup:
    """A file of this package, put into the page as it is."""
    return Markup((importlib.resources.files("bigcl.report") / name).read_text(encoding="utf-8"))

"""What a report draws of a classification: the table of confusions, and the surest mistakes."""

import dataclasses

import numpy as np
from markupsafe import Markup

from bigcl.report.classes import Classes
from bigcl.report.figures import clip
from bigcl.report.svg import data_uri, tag

MOST = 16
"""Classes in the table, those with the most examples."""


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A picture with what it was taken for, what it is, and how sure the model was. picture: a data URI."""

    picture: str
    said: str
    truth: str
    confidence: float


def mistakes(classes: Classes) -> list[Mistake]:
    """The mistakes that have a picture."""
    names = classes.classes
    return [
        Mistake(data_uri(picture), names[classes.predicted[i]], names[classes.labels[i]], float(classes.confidence[i]))
        for i, picture in zip(classes.worst, classes.pictures, strict=False)
    ]


def confusion_map(classes: Classes) -> Markup:
    """Classes that are (rows) against classes that were said (columns), shares of a row, of up to MOST classes."""
    counts = classes.counts()
    chosen = np.sort(np.argsort(-counts.sum(1), kind="stable")[:MOST])
    chosen = chosen[counts[chosen].sum(1) > 0]
    share = counts[chosen] / counts[chosen].sum(1, keepdims=True)
    names = [classes.classes[i] for i in chosen]
    cell, left, top = 34, 150, 118
    side = cell * len(chosen)
    marks = []
    for row, (i, name) in enumerate(zip(chosen, names, strict=True)):
        middle = row * cell + cell / 2
        marks.append(tag("text", clip(name, 22), x=left - 8, y=top + middle + 4, text_anchor="end", class_="label"))
        at = f"translate({left + middle + 3:.1f} {top - 8}) rotate(-52)"
        marks.append(tag("text", clip(name, 18), class_="label", transform=at))
        for column, (j, other) in enumerate(zip(chosen, names, strict=True)):
            value = float(share[row, j])
            box = {"x": left + column * cell + 1, "y": top + row * cell + 1, "width": cell - 2, "height": cell - 2}
            said = f"{name}, taken for {other}: {counts[i, j]:,} of {counts[i].sum():,}"
            look = {"rx": 3, "fill_opacity": f"{value:.2f}", "class_": "cell right" if row == column else "cell"}
            marks.append(tag("rect", tag("title", said), **box, **look))
            if value >= 0.005:
                place = {"x": left + column * cell + cell / 2, "y": top + middle + 4, "text_anchor": "middle"}
                number = "on" if value > 0.55 else ""
                marks.append(tag("text", f"{100 * value:.0f}", **place, class_=f"share {number}"))
    label = f"Confusion of {len(chosen)} classes"
    view = f"0 0 {left + side + 70} {top + side + 2}"
    return tag("svg", *marks, viewBox=view, class_="heat confusion", role="img", aria_label=label)

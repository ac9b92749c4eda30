"""The drawings of a report: line charts, the similarity heat map, the map of the joint space.

Colours are names of the page's style, so that they follow its light and dark form.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from markupsafe import Markup

from bigcl.report.gallery import Gallery
from bigcl.report.retrieval import spread
from bigcl.report.run import short
from bigcl.report.svg import Thumbnails, path, tag, ticks

COLOURS = 10  # group colours of the style; further groups share the last


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a chart.

    tone: a colour of the style.
    smooth: whether the points stand faint behind a smoothed line.
    fill: whether the area below is tinted.
    """

    x: Float[np.ndarray, "t"]
    y: Float[np.ndarray, "t"]
    name: str = ""
    tone: str = "ink"
    smooth: bool = False
    fill: bool = False


def smoothed(y: Float[np.ndarray, "t"]) -> Float[np.ndarray, "t"]:
    """A Gaussian mean over about a thirtieth of the points, centred (no lag), renormalised at the ends."""
    reach = max(1, len(y) // 30)
    kernel = np.exp(-0.5 * (np.arange(-3 * reach, 3 * reach + 1) / reach) ** 2)
    if len(y) <= len(kernel):
        return y
    return np.convolve(y, kernel, "same") / np.convolve(np.ones_like(y), kernel, "same")


def line_chart(
    lines: Sequence[Line],
    *,
    label: str,
    form: Callable[[float], str] = short,
    zero: bool = False,
    axis: str = "step",
) -> Markup:
    """A chart of 340 x 190 units. Lines are named at their end; spikes of noise are cut at the frame.

    label: what the chart shows, for those who hear the page.
    zero: whether the vertical axis must reach down to 0.
    """
    left, top, bottom, width, height = 44, 10, 160, 340, 190
    longest = max(len(line.name) for line in lines)
    right = width - (16 + 6.2 * longest if longest else 10)
    shown = [smoothed(line.y) if line.smooth else line.y for line in lines]
    x_low, x_high = float(min(line.x.min() for line in lines)), float(max(line.x.max() for line in lines))
    x_low = 0.0 if 0 < x_low < x_high / 6 else x_low
    y_low, y_high = frame(lines, shown, zero)

    def across(x: Any) -> Any:
        return left + (x - x_low) / max(x_high - x_low, 1e-9) * (right - left)

    def down(y: Any) -> Any:
        return np.clip(bottom - (y - y_low) / (y_high - y_low) * (bottom - top), top - 4, bottom + 4)

    marks = [tag("text", axis, x=right, y=height - 1, text_anchor="end")]
    for t in ticks(y_low, y_high, 4):
        marks.append(tag("line", x1=left, x2=right, y1=down(t), y2=down(t), class_="grid"))
        marks.append(tag("text", form(t), x=left - 7, y=down(t) + 3.5, text_anchor="end"))
    for t in ticks(x_low, x_high, 5) if x_high > x_low else []:
        marks.append(tag("text", short(t), x=across(t), y=bottom + 16, text_anchor="middle"))
    for line, y in zip(lines, shown, strict=True):
        few = np.linspace(0, len(y) - 1, min(len(y), 600)).astype(int)  # a chart has no room for more
        x, drawn = across(line.x[few]), down(y[few])
        if line.fill:
            area = path(np.array([x[0], *x, x[-1]]), np.array([bottom, *drawn, bottom]))
            marks.append(tag("path", d=area, class_=f"area {line.tone}"))
        if line.smooth:
            marks.append(tag("path", d=path(x, down(line.y[few])), class_=f"raw {line.tone}"))
        marks.append(tag("path", d=path(x, drawn), class_=f"line {line.tone}"))
    named = [(line, y) for line, y in zip(lines, shown, strict=True) if line.name]
    for (line, _), end in zip(named, apart([down(y[-1]) for _, y in named], 12, bottom), strict=True):
        marks.append(tag("text", line.name, x=across(line.x[-1]) + 7, y=end + 3.5, class_=f"name {line.tone}"))
    return tag("svg", *marks, viewBox=f"0 0 {width} {height}", class_="chart", role="img", aria_label=label)


def frame(lines: Sequence[Line], shown: Sequence[np.ndarray], zero: bool) -> tuple[float, float]:
    """Vertical limits: all of the drawn lines and nearly all of the points behind them, with some air."""
    raw = [np.quantile(line.y, (0.02, 0.98)) for line in lines if line.smooth]
    values = np.concatenate([*shown, *raw, np.zeros(int(zero))])
    low, high = float(values.min()), float(values.max())
    air = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return low - (0 if zero and low == 0 else air), high + air


def apart(places: Sequence[float], gap: float, most: float) -> list[float]:
    """Places of labels, moved until neighbours are `gap` apart and none is beyond `most`."""
    order = np.argsort(places, kind="stable")
    moved = np.array(places, float)[order]
    for i in range(1, len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + gap)
    moved = np.minimum(moved, most - gap * np.arange(len(moved))[::-1])
    return [float(y) for y in moved[np.argsort(order)]]


def heat_map(gallery: Gallery, thumbnails: Thumbnails, count: int = 24) -> tuple[Markup, float, float]:
    """Cosine similarity of some texts (columns) and their pictures (rows), with the least and greatest of them.

    The pairs are spread over the groups and ordered by group, so that kinship shows as blocks along the diagonal.
    """
    every = np.arange(len(gallery))
    chosen = sorted(spread(every, gallery.groups, count), key=lambda i: (gallery.groups[i] or "~", i))
    cosine = gallery.images[chosen] @ gallery.texts[chosen].T
    names, captions = gallery.names, [gallery.captions[i] for i in chosen]
    low, high = float(cosine.min()), float(cosine.max())
    cell, left, top = 30, 38, 160
    side = cell * len(chosen)
    marks = []
    for row, i in enumerate(chosen):
        y = top + row * cell + 1
        marks.append(tag("rect", x=1, y=y, width=cell - 2, height=cell - 2, rx=4, class_="paper"))
        marks.append(thumbnails.show(i, 2, y + 1, cell - 4))
        at = f"translate({left + row * cell + cell / 2 + 3:.1f} {top - 8}) rotate(-58)"
        marks.append(tag("text", clip(captions[row], 24), class_="label", transform=at))
        for column in range(len(chosen)):
            value = float(cosine[row, column])
            said = f"{names[0]}: {captions[row]}\n{names[1]}: {captions[column]}\ncosine {value:.2f}"
            look = {"fill_opacity": f"{(value - low) / max(high - low, 1e-9):.2f}"}
            look["class_"] = "cell right" if row == column else "cell"
            x = left + column * cell + 1
            marks.append(tag("rect", tag("title", said), x=x, y=y, width=cell - 2, height=cell - 2, rx=3, **look))
    view = f"0 0 {left + side + 84} {top + side + 2}"
    label = f"Cosine similarity of {len(chosen)} {names[1]}s and {names[0]}s"
    return tag("svg", *marks, viewBox=view, class_="heat", role="img", aria_label=label), low, high


def patch_map(thumbnails: Thumbnails, index: int, cosine: Float[np.ndarray, "h w"]) -> tuple[Markup, float, float]:
    """A picture twice, as it is and under a veil that lifts from the patches that are nearest to its text; and the
    least and greatest cosine."""
    low, high = float(cosine.min()), float(cosine.max())
    height, width = cosine.shape
    side, gap = 96.0, 8.0
    marks = []
    for left in (0.0, side + gap):
        marks.append(tag("rect", x=left, y=0, width=side, height=side, class_="paper"))
        marks.append(thumbnails.show(index, left, 0, side))
    for row in range(height):
        for column in range(width):
            value = float(cosine[row, column])
            veil = 0.88 * (1 - (value - low) / max(high - low, 1e-9))
            box = {"x": side + gap + column * side / width, "y": row * side / height}
            box |= {"width": side / width + 0.1, "height": side / height + 0.1}
            marks.append(
                tag("rect", tag("title", f"cosine {value:.2f}"), **box, fill_opacity=f"{veil:.2f}", class_="veil")
            )
    label = f"Where {thumbnails.captions[index]} is found in its picture"
    view = f"0 0 {2 * side + gap:.0f} {side:.0f}"
    return tag("svg", *marks, viewBox=view, class_="look", role="img", aria_label=label), low, high


def clip(text: str, length: int) -> str:
    """`text` in at most `length` characters."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


@dataclasses.dataclass(frozen=True)
class JointMap:
    """The map, laid out in several ways by their names, and its legend: (group, colour number, shown pairs) by falling
    size."""

    layouts: dict[str, Markup]
    legend: list[tuple[str, int, int]]
    shown: int


def joint_map(gallery: Gallery, thumbnails: Thumbnails, most: int = 400) -> JointMap:
    """Both sides of up to `most` pairs in the plane: pictures as coins, texts as dots, a line between a pair's two."""
    every = np.linspace(0, len(gallery) - 1, min(most, len(gallery))).round().astype(int)
    groups = [gallery.groups[i] or "" for i in every]
    sizes = {group: groups.count(group) for group in dict.fromkeys(groups)}
    order = sorted(sizes, key=lambda group: (group == "", -sizes[group]))
    places = [order.index(group) for group in groups]
    layouts = {
        name: draw_map(gallery, thumbnails, every, places, layout(gallery.images[every], gallery.texts[every]), name)
        for name, layout in (("t-SNE", neighbours), ("PCA", principal))
    }
    legend = [(group or "no group", min(k, COLOURS - 1), sizes[group]) for k, group in enumerate(order)]
    return JointMap(layouts, legend, len(every))


def draw_map(
    gallery: Gallery,
    thumbnails: Thumbnails,
    every: Int[np.ndarray, "n"],
    places: Sequence[int],
    points: Float[np.ndarray, "m 2"],
    name: str,
) -> Markup:
    """One layout. every: the pairs.  places: their groups in the legend.  points: of the pictures, then of the
    texts."""
    size, air = 30.0, 17.0
    points = points * [1030, 710]
    points = push_apart(points, np.repeat([size / 2, 3.5], len(every)))
    points -= points.min(axis=0) - air
    width, height = points.max(axis=0) + air
    pictures, texts = np.split(points, 2)
    bonds, coins, dots = [], [], []
    for (x, y), (u, v), i, place in zip(pictures.tolist(), texts.tolist(), every.tolist(), places, strict=True):
        colour = f"c{min(place, COLOURS - 1)}"
        pair = {"data_pair": i, "data_group": place}
        said = {"data_caption": gallery.captions[i], "class_": f"point {colour}"}
        picture = thumbnails.show(i, x - size / 2, y - size / 2, size, clip_path=f"url(#coin-{name})")
        paper, ring = (tag("circle", cx=x, cy=y, r=size / 2, class_=part) for part in ("paper", "ring"))
        bonds.append(tag("line", x1=x, y1=y, x2=u, y2=v, class_=f"bond {colour}", **pair))
        coins.append(tag("g", paper, picture, ring, data_kind=gallery.names[0], **pair, **said))
        dots.append(tag("g", tag("circle", cx=u, cy=v, r=3.2), data_kind=gallery.names[1], **pair, **said))
    circle = tag("circle", cx=0.5, cy=0.5, r=0.5)
    layers = [tag("clipPath", circle, id=f"coin-{name}", clipPathUnits="objectBoundingBox"), *bonds, *coins, *dots]
    label = f"Map of {len(every)} {gallery.names[0]}s and their {gallery.names[1]}s by {name}; near means similar"
    return tag("svg", *layers, viewBox=f"0 0 {width:.0f} {height:.0f}", class_="map", role="img", aria_label=label)


def principal(images: Float[np.ndarray, "n d"], texts: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "m 2"]:
    """The two directions of the largest variance of both sides together, images first, each axis within [0, 1]; what
    lies between the sides is left as it is."""
    both = np.concatenate([images, texts]).astype(np.float64)
    u, s, _ = np.linalg.svd(both - both.mean(axis=0), full_matrices=False)
    xy = u[:, :2] * s[:2]
    return (xy - xy.min(axis=0)) / np.maximum(np.ptp(xy, axis=0), 1e-9)


def neighbours(images: Float[np.ndarray, "n d"], texts: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "m 2"]:
    """t-SNE (van der Maaten and Hinton 2008) of both sides together, images first, each axis within [0, 1].

    Each side is centred first: the offset between the sides (the modality gap, Liang et al. 2022) has no meaning.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    both = np.concatenate([side - side.mean(axis=0) for side in (images, texts)])
    both /= np.maximum(np.linalg.norm(both, axis=1, keepdims=True), 1e-6)
    # Principal components to start from, jittered: scikit-learn's own crash the process when all points coincide.
    u, s, _ = np.linalg.svd(both, full_matrices=False)
    start = u[:, :2] * s[:2] + 1e-3 * np.random.default_rng(0).standard_normal((len(both), 2))
    start *= 1e-4 / start.std(axis=0)
    with threadpool_limits(1):  # so few points go fastest on one thread, and always to the same places
        xy = TSNE(perplexity=min(30.0, len(both) / 4), init=start.astype(np.float32), random_state=0).fit_transform(
            both
        )
    return (xy - xy.min(axis=0)) / np.maximum(np.ptp(xy, axis=0), 1e-9)


def push_apart(
    points: Float[np.ndarray, "n 2"], radii: Float[np.ndarray, "n"], rounds: int = 200
) -> Float[np.ndarray, "n 2"]:
    """Moves discs that overlap away from each other, a little each round, until all can be seen."""
    from scipy.spatial import cKDTree

    points = points + 1e-3 * np.random.default_rng(0).standard_normal(points.shape)
    for _ in range(rounds):
        first, second = cKDTree(points).query_pairs(2 * radii.max(), output_type="ndarray").T
        offset = points[first] - points[second]
        distance = np.maximum(np.linalg.norm(offset, axis=1), 1e-6)
        push = 0.3 * np.maximum(radii[first] + radii[second] - distance, 0) / distance
        np.add.at(points, first, push[:, None] * offset)
        np.add.at(points, second, -push[:, None] * offset)
    return points

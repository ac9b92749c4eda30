"""What a report shows of a gallery: searches both ways, similarities, the map."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from bigcl.report.figures import JointMap, Line, heat_map, joint_map, line_chart, patch_map
from bigcl.report.gallery import Gallery
from bigcl.report.retrieval import SHOWN, Search, recall_by_group, search, similarity_densities, tiers
from bigcl.report.run import percent_tick
from bigcl.report.svg import Thumbnails

EXAMPLES = 4  # queries shown of each tier


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A target of a query: its pair, the softmax's share for it, and whether it is right."""

    index: int
    share: float
    right: bool


@dataclasses.dataclass(frozen=True)
class Example:
    """A query with its best candidates; `missed` is the right one where it is not among them."""

    query: int
    rank: int
    best: list[Candidate]
    missed: int | None


@dataclasses.dataclass(frozen=True)
class Direction:
    """Searches from one side to the other, sorted into tiers of (title, share of queries, examples)."""

    source: str
    target: str
    found: Search
    tiers: list[tuple[str, float, list[Example]]]

    @classmethod
    def of(cls, gallery: Gallery, source: int) -> "Direction":
        """From side `source` of the gallery (0 or 1) to the other."""
        sides, names = (gallery.images, gallery.texts), gallery.names
        found = search(sides[source], sides[1 - source], gallery.captions, gallery.scale)
        shown = [
            (tier.title, tier.share, [example(found, query, gallery.captions) for query in tier.queries])
            for tier in tiers(found, gallery.groups, EXAMPLES)
        ]
        return cls(names[source], names[1 - source], found, shown)


def example(found: Search, query: int, captions: Sequence[str]) -> Example:
    """What one query found."""
    best = [
        Candidate(int(index), float(share), captions[index] == captions[query])
        for index, share in zip(found.best[query], found.share[query], strict=True)
    ]
    rank = int(found.rank[query])
    return Example(query, rank, best, int(found.right[query]) if rank > SHOWN else None)


@dataclasses.dataclass(frozen=True)
class Look:
    """Where in a picture a text is found. low, high: cosines of the patches farthest from it and nearest to it."""

    text: str
    figure: Markup
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Showcase:
    """All drawings and examples of a gallery."""

    gallery: Gallery
    thumbnails: Thumbnails
    from_text: Direction
    from_image: Direction
    heat: Markup
    cosines: tuple[float, float]
    densities: Markup
    recalls: Markup
    by_group: list[tuple[str, float, int]]
    map: JointMap | None
    looks: list[Look]

    @classmethod
    def of(cls, gallery: Gallery) -> "Showcase":
        """The showcase of a gallery of at least two pairs; a map only from eight on."""
        thumbnails = Thumbnails(gallery.thumbnails, gallery.captions)
        from_image, from_text = Direction.of(gallery, 0), Direction.of(gallery, 1)
        heat, low, high = heat_map(gallery, thumbnails)
        return cls(
            gallery,
            thumbnails,
            from_text,
            from_image,
            heat,
            (low, high),
            density_chart(gallery),
            recall_chart(from_text, from_image),
            recall_by_group(from_text.found, gallery.groups),
            joint_map(gallery, thumbnails) if len(gallery) >= 8 else None,
            [Look(gallery.captions[i], *patch_map(thumbnails, i, heat)) for i, heat in gallery.heat.items()],
        )


def density_chart(gallery: Gallery) -> Markup:
    """How the cosines of right and of wrong pairs are spread."""
    centres, right, wrong = similarity_densities(gallery)
    lines = [Line(centres, wrong, tone="muted", fill=True), Line(centres, right, tone="good", fill=True)]
    label = "Cosine similarity of right and wrong pairs"
    return line_chart(lines, label=label, form=percent_tick, zero=True, axis="cosine similarity")


def recall_chart(from_text: Direction, from_image: Direction) -> Markup:
    """Recall at every depth, both ways, and that of chance."""
    count = len(from_text.found.rank)
    depth = np.arange(1, min(50, count) + 1)
    lines = [
        Line(depth.astype(float), np.array([direction.found.recall(k) for k in depth.tolist()]), tone=tone)
        for direction, tone in ((from_text, "second"), (from_image, "first"))
    ]
    lines.append(Line(depth.astype(float), depth / count, tone="muted dashed"))
    return line_chart(
        lines, label="Recall by depth of the list", form=percent_tick, zero=True, axis="length of the list"
    )

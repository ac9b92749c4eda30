"""Detection by prompts: proposed regions, each embedded by itself, against annotated boxes."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from bigcl.data.tokenizers import Tokenizer
from bigcl.evals import Encode, logit_scale
from bigcl.evals.embedding import Examples
from bigcl.evals.metrics import mean, plain
from bigcl.evals.prompts import ClassPrompts
from bigcl.registry import ConfigError, Part

THRESHOLDS = tuple(0.5 + 0.05 * i for i in range(10))
LIMIT = 100


class Regions:
    """Mean average precision of region embeddings, as COCO computes it (Lin et al. 2014).

    source: proposals: each example is one region of a picture, its crop or whatever the tower of `item` reads.
    truths: annotated boxes, one an example, with the class at `label`.
    picture, box: keys, in both sources, of the picture's name and of the box [left, top, right, bottom].
    classes, prompts, templates, length, query, item, batch: as for `zero_shot`.

    Each region is a detection of every class, scored by the softmax over the classes at the model's temperature; in
    each picture the 100 best of a class count. Proposals are taken as they are: suppress duplicates before.

    map: mean over classes that occur and over overlaps (IoU) of 0.5, 0.55 ... 0.95 of the precision at 101 recalls;
    map_50 and map_75 at one overlap. accuracy: the share of annotated boxes whose best overlapping region (IoU of 0.5
    or more) is given the right class. After `run`, `artifacts` holds `scores` [regions, C], `classes` and
    `average_precision` [thresholds, C].
    """

    def __init__(
        self,
        *,
        source: Annotated[Part, "source"],
        truths: Annotated[Part, "source"],
        transforms: Sequence[Annotated[Part, "transform"]] = (),
        picture: str = "picture",
        box: str = "box",
        label: str = "label",
        classes: Sequence[str] | str | None = None,
        prompts: str = "name/1",
        templates: Sequence[str] | None = None,
        length: int,
        query: str = "text",
        item: str = "image",
        batch: int = 200,
        tokenizer: Tokenizer | None = None,
    ):
        self.prompts = ClassPrompts(
            "regions",
            classes=classes,
            templates=templates,
            prompts=prompts,
            length=length,
            query=query,
            batch=batch,
            tokenizer=tokenizer,
        )
        self.examples = Examples(source, transforms, tokenizer, batch)
        self.truths = Examples(truths, (), tokenizer, batch)
        self.picture, self.box, self.label, self.item = picture, box, label, item
        self.artifacts: dict[str, Any] = {}

    def run(self, encode: Encode) -> dict[str, float]:
        names, each = self.prompts.resolve(self.truths.column(self.label), self.truths.source, self.label)
        target = np.array([c[0] if len(c) else -1 for c in each], np.int32)
        cosines = self.examples.embed(encode, self.item)[self.item] @ self.prompts.embed(names, encode).T
        scores = np.asarray(jax.nn.softmax(logit_scale(encode) * cosines, axis=1))
        regions, truths = (
            by_picture(self.examples, self.picture, self.box),
            by_picture(self.truths, self.picture, self.box),
        )
        overlaps = {name: iou(regions[name][1], truths[name][1]) for name in regions if name in truths}
        precision = np.full((len(THRESHOLDS), len(names)), np.nan)
        kept = {name: best_detections(scores[index]) for name, (index, _) in regions.items()}
        for c in np.unique(target[target >= 0]):
            precision[:, c] = average_precision(
                [
                    (
                        scores[index[kept[name][:, c]], c],
                        overlaps[name][kept[name][:, c]][:, target[truths[name][0]] == c]
                        if name in truths
                        else np.zeros((int(kept[name][:, c].sum()), 0)),
                    )
                    for name, (index, _) in regions.items()
                ],
                int((target == c).sum()),
            )
        self.artifacts = {"scores": scores, "classes": names, "average_precision": precision}
        found = ~np.isnan(precision[0])
        return {
            "map": mean(precision[:, found]),
            "map_50": mean(precision[0, found]),
            "map_75": mean(precision[5, found]),
            "accuracy": self.box_accuracy(scores.argmax(1), target, regions, truths, overlaps),
            "boxes": float((target >= 0).sum()),
        }

    def box_accuracy(self, predicted: Any, target: Any, regions: Any, truths: Any, overlaps: Any) -> float:
        """The share of annotated boxes whose best region overlaps them by half and has their class."""
        right = 0
        for name, overlap in overlaps.items():
            best = overlap.argmax(0)
            near = overlap[best, np.arange(len(best))] >= THRESHOLDS[0]
            right += int((near & (predicted[regions[name][0][best]] == target[truths[name][0]])).sum())
        return right / max(1, int((target >= 0).sum()))


def by_picture(
    examples: Examples, picture: str, box: str
) -> dict[Any, tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n 4"]]]:
    """The examples of each picture and their boxes. Raises ConfigError for a box that is none."""
    boxes = np.asarray(examples.column(box), np.float64).reshape(len(examples), -1)
    if boxes.shape[1] != 4 or (boxes[:, 2:] < boxes[:, :2]).any():
        raise ConfigError(f"regions.box: {box!r} must be [left, top, right, bottom], right and bottom the larger")
    index = defaultdict(list)
    for i, name in enumerate(examples.column(picture)):
        index[plain(name)].append(i)
    return {name: (np.array(rows), boxes[rows]) for name, rows in index.items()}


def iou(a: Float[np.ndarray, "n 4"], b: Float[np.ndarray, "m 4"]) -> Float[np.ndarray, "n m"]:
    """Intersection over union of boxes."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(2)
    areas = [(x[:, 2:] - x[:, :2]).prod(1) for x in (a, b)]
    return shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-12)


def best_detections(scores: Float[np.ndarray, "n c"]) -> Bool[np.ndarray, "n c"]:
    """The detections of a picture that count: of each class the best, up to COCO's limit."""
    kept = np.zeros(scores.shape, bool)
    np.put_along_axis(kept, np.argsort(-scores, axis=0, kind="stable")[:LIMIT], True, axis=0)
    return kept


def average_precision(
    pictures: Sequence[tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n m"]]], truths: int
) -> Float[np.ndarray, "t"]:
    """COCO's average precision of one class at each threshold of overlap.

    pictures: for each the scores of its detections, and their overlaps with the boxes of the class.  truths: boxes in
        all.
    """
    scores = np.concatenate([s for s, _ in pictures]) if pictures else np.zeros(0)
    order = np.argsort(-scores, kind="stable")
    result = []
    for threshold in THRESHOLDS:
        hits = (
            np.concatenate([match(s, o, threshold) for s, o in pictures])[order] if len(scores) else np.zeros(0, bool)
        )
        right = np.cumsum(hits)
        precision = np.maximum.accumulate((right / np.arange(1, len(right) + 1))[::-1])[::-1]
        at = np.searchsorted(right / truths, np.linspace(0, 1, 101), side="left")
        result.append(np.append(precision, 0.0)[np.minimum(at, len(precision))].mean())
    return np.array(result)


def match(
    scores: Float[np.ndarray, "n"], overlaps: Float[np.ndarray, "n m"], threshold: float
) -> Bool[np.ndarray, "n"]:
    """Which detections of a picture are right: the best first, each takes the free box that it overlaps most."""
    hits, free = np.zeros(len(scores), bool), np.ones(overlaps.shape[1], bool)
    for i in np.argsort(-scores, kind="stable"):
        if free.any():
            best = int(np.argmax(np.where(free, overlaps[i], -1)))
            hits[i] = overlaps[i, best] >= min(threshold, 1 - 1e-10)
            free[best] &= not hits[i]
    return hits

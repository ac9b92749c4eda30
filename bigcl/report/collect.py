"""From evaluators that have run to what the report shows: pairs that were searched, classes that were told apart, and
where in a picture a text is found."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bigcl.data.transforms.text import as_text
from bigcl.evals.metrics import plain
from bigcl.evals.ranks import put
from bigcl.losses import l2_normalize
from bigcl.mesh import replicated
from bigcl.report.classes import Classes
from bigcl.report.gallery import Gallery
from bigcl.report.retrieval import spread

LIMIT = 1000
"""Pairs that a report holds at most; each brings a thumbnail."""

WORST = 18
"""Mistakes that are shown."""

HEATED = 12
"""Pictures that a text is looked for in."""


def collect(evaluators: dict[str, Any], scale: float) -> Gallery | None:
    """The gallery of the first retrieval evaluator whose pairs can be shown, pictures on one side and texts on the
    other, or None.

    scale: inverse temperature of the loss.
    """
    for evaluator in evaluators.values():
        found = getattr(evaluator, "artifacts", {})
        sides = getattr(evaluator, "item", None), getattr(evaluator, "query", None)
        if (
            sides[0] != sides[1]
            and all(isinstance(side, str) and side in found for side in sides)
            and (gallery := show(evaluator, scale)) is not None
        ):
            return gallery
    return None


def show(evaluator: Any, scale: float) -> Gallery | None:
    """The pairs of one evaluator, its first LIMIT ones, as pictures and texts."""
    source, found = evaluator.examples.source, evaluator.artifacts
    rows = np.arange(min(LIMIT, len(source)))
    texts = rows
    if "captions" in found:  # the first of each example
        rows, texts = (x[:LIMIT] for x in np.unique(found["of"], return_index=True))
    raw = [dict(source[int(i)]) for i in rows]
    captions = [
        readable(found["captions"][i] if "captions" in found else example.get(evaluator.query))
        for i, example in zip(texts, raw, strict=True)
    ]
    seen = [transformed(evaluator, example) for example in raw]
    if not all(is_picture(example.get(evaluator.item)) for example in seen):
        return None
    shown = [caption for caption in captions if caption is not None]
    if len(shown) < len(captions):
        return None
    return Gallery(
        images=found[evaluator.item][rows],
        texts=found[evaluator.query][texts],
        thumbnails=[example[evaluator.item] for example in seen],
        captions=shown,
        groups=[None if (group := example.get("group")) is None else str(plain(group)) for example in raw],
        scale=scale,
        names=(evaluator.item, evaluator.query),
        attribution=getattr(source, "attribution", None),
    )


def collect_classes(evaluators: dict[str, Any]) -> Classes | None:
    """What the first evaluator said that classifies and tells how sure it was; with the pictures of its worst
    mistakes."""
    for name, evaluator in evaluators.items():
        found = evaluator.artifacts
        if not {"classes", "index", "labels", "predicted", "confidence"} <= set(found) or not len(found["index"]):
            continue
        wrong = np.flatnonzero(found["predicted"] != found["labels"])
        worst = wrong[np.argsort(-found["confidence"][wrong], kind="stable")][:WORST]
        source = evaluator.examples.source
        seen = [transformed(evaluator, dict(source[int(found["index"][i])]))[evaluator.item] for i in worst]
        return Classes(
            name=name,
            classes=list(map(str, found["classes"])),
            labels=found["labels"],
            predicted=found["predicted"],
            confidence=found["confidence"],
            worst=worst,
            pictures=seen if all(map(is_picture, seen)) else [],
            attribution=getattr(source, "attribution", None),
        )
    return None


def with_heat(gallery: Gallery, experiment: Any, state: Any) -> Gallery:
    """The gallery with heat maps of some of its pictures, where the image tower can tell patches apart. All processes
    call it."""
    params = state.params if state.ema is None else {**state.params, **state.ema}
    task = experiment.skeleton.merge(params, state.extra)
    name = getattr(task, "inputs", {}).get(gallery.names[0])
    if name is None or not hasattr(task.towers[name], "embed_patches") or not len(gallery):
        return gallery
    chosen = spread(np.arange(len(gallery)), gallery.groups, HEATED)
    images = np.stack([gallery.thumbnails[i] for i in chosen])

    def similarity(params: Any, extra: Any, images: Any, texts: Any) -> Any:
        tower = experiment.skeleton.merge(params, extra).towers[name]
        patches = l2_normalize(tower.embed_patches(tower(images).tokens))
        cosine = jnp.einsum("bnd,bd->bn", patches, texts)
        side = math.isqrt(cosine.shape[1])
        return cosine.reshape(-1, side, side)

    where = replicated(experiment.mesh)
    pairs = [put(x, where) for x in (images, gallery.texts[chosen])]
    with jax.set_mesh(experiment.mesh):
        heat = np.asarray(jax.jit(similarity, out_shardings=where)(params, state.extra, *pairs))
    return dataclasses.replace(gallery, heat=dict(zip(chosen, heat, strict=True)))


def transformed(evaluator: Any, example: dict[str, Any]) -> dict[str, Any]:
    """The example as the towers see it."""
    for transform in evaluator.examples.transforms:
        example = transform(example, np.random.default_rng(0))
    return example


def readable(value: Any) -> str | None:
    """A value as text, None if it is none."""
    try:
        return as_text(value) if isinstance(value, str | bytes) else None
    except UnicodeDecodeError:
        return None


def is_picture(value: Any) -> bool:
    """Whether a value can be shown as it is."""
    return isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 3 and value.shape[2] == 3

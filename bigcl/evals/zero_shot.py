"""Zero-shot classification by prompts."""

import functools
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32, Int32

from bigcl import registry
from bigcl.data.sources.arrays import Arrays
from bigcl.data.tokenizers import Tokenizer
from bigcl.evals import Encode
from bigcl.evals.embedding import embed, labels
from bigcl.evals.ranks import ranks
from bigcl.registry import ConfigError, Part, nearest


class ZeroShot:
    """Assigns each example to the class whose prompts lie nearest (Radford et al. 2021, section 3.1.4).

    A class is embedded as the mean, made unit length again, of the embeddings of its name in each template.

    label: key of the example: a class name, or a number that counts in `classes`. Examples whose label is None are left
        out.
    classes: names of the classes; None: the distinct labels of the source, sorted.
    templates: prompts, "{}" standing for the name. length: their length in tokens.
    query, item: the towers' inputs for prompts and for examples.
    topk: reported are accuracy@k for each k (ties count against the model), the mean over classes of the accuracy in
        each, and how many examples had a label (`examples`) and how many had none (`unlabelled`).
    batch: rows of a global batch while embedding.

    After `run`, `artifacts` holds, for the n labelled examples, `index` [n] in the source, `embeddings` [n, D],
    `labels` [n] and `ranks` [n] of the right class; and `classes`, the names, with `class_embeddings` [C, D].
    """

    def __init__(
        self,
        *,
        source: Annotated[Part, "source"],
        transforms: Sequence[Annotated[Part, "transform"]] = (),
        label: str = "label",
        classes: Sequence[str] | None = None,
        templates: Sequence[str] = ("{}",),
        length: int,
        query: str = "text",
        item: str = "image",
        topk: Sequence[int] = (1, 5),
        batch: int = 200,
        tokenizer: Tokenizer | None = None,
        mesh: Mesh,
    ):
        if tokenizer is None:
            raise ConfigError("zero_shot: prompts need a tokenizer; set the section 'tokenizer' of the config")
        if not templates or not all("{}" in template for template in templates):
            raise ConfigError(f"zero_shot.templates: each needs a {{}} in the place of the name, got {list(templates)}")
        self.source = registry.build("source", source)
        self.transforms = [registry.build("transform", part, tokenizer=tokenizer) for part in transforms]
        self.label, self.classes, self.templates, self.length = label, classes, tuple(templates), length
        self.query, self.item, self.topk, self.batch = query, item, tuple(topk), batch
        self.tokenizer, self.mesh = tokenizer, mesh
        self.artifacts: dict[str, Any] = {}

    def run(self, encode: Encode) -> dict[str, float]:
        names, targets = self.targets
        centres = self.embed_classes(names, encode)
        examples = embed(self.source, self.transforms, encode, inputs=[self.item], batch=self.batch)[self.item]
        index = np.flatnonzero(targets >= 0)
        target = targets[index]
        rank = ranks(examples[index], centres, target, np.arange(len(names), dtype=np.int32), self.mesh)
        self.artifacts = {
            "index": index,
            "embeddings": examples[index],
            "labels": target,
            "ranks": rank,
            "classes": names,
            "class_embeddings": centres,
        }
        return {
            **{f"accuracy@{k}": float(np.mean(rank <= k)) for k in self.topk},
            "mean_per_class_accuracy": float(np.mean([np.mean(rank[target == c] == 1) for c in np.unique(target)])),
            "examples": float(len(index)),
            "unlabelled": float(len(targets) - len(index)),
        }

    @functools.cached_property
    def targets(self) -> tuple[list[str], Int32[np.ndarray, "n"]]:
        """Class names, and the class of each example; read once."""
        return resolve(labels(self.source, self.label), self.classes)

    def embed_classes(self, names: Sequence[str], encode: Encode) -> Float32[np.ndarray, "c d"]:
        """The class embeddings."""
        texts = [template.replace("{}", name) for name in names for template in self.templates]
        prompts = Arrays({self.query: self.tokenizer(texts, self.length)})
        each = embed(prompts, [], encode, inputs=[self.query], batch=self.batch)[self.query]
        mean = each.reshape(len(names), len(self.templates), -1).mean(1)
        return mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)


def resolve(values: Sequence[Any], classes: Sequence[str] | None) -> tuple[list[str], Int32[np.ndarray, "n"]]:
    """Class names, and the class of each example, -1 for those without.

    Raises ConfigError for a label that is none of the classes, numbers without names, and a source without any label.
    """
    known = [v for v in values if v is not None]
    if not known:
        raise ConfigError("zero_shot.label: no example of the source has one")
    if classes is None and not all(isinstance(v, str) for v in known):
        raise ConfigError("zero_shot.classes: the labels are numbers; give the names that they stand for")
    names = sorted(set(known)) if classes is None else list(classes)
    numbers: dict[Any, int] = {**dict(enumerate(range(len(names)))), **{name: i for i, name in enumerate(names)}}
    for value in known:
        if value not in numbers:
            raise ConfigError(f"zero_shot.classes: an example has the label {value!r}; {nearest(value, names)}")
    return names, np.array([-1 if v is None else numbers[v] for v in values], np.int32)

"""Zero-shot classification by prompts."""

import functools
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int32

from bigcl.data.tokenizers import Tokenizer
from bigcl.evals import Encode, logit_scale
from bigcl.evals.embedding import Examples
from bigcl.evals.metrics import calibration_error, mean
from bigcl.evals.prompts import ClassPrompts
from bigcl.evals.ranks import over_rows, ranks
from bigcl.registry import Part


class ZeroShot:
    """Assigns each example to the class whose prompts lie nearest (Radford et al. 2021, section 3.1.4).

    A class is embedded as the mean, made unit length again, of the embeddings of its name in each template.

    label: key of the example: a class name, or a number that counts in `classes`. Examples whose label is None are left
        out.
    classes: names of the classes, or a file with one a line; None: those of the prompt set, else those that the source
        knows, else the distinct labels, sorted.
    prompts: a set of `bigcl.evals.prompts`.  templates: prompts instead, "{}" standing for the name.  length: their
        length in tokens.
    query, item: the towers' inputs for prompts and for examples.
    topk: reported are accuracy@k for each k (ties count against the model), the mean over classes of the accuracy in
        each, the expected calibration error (15 bins) of the softmax over the classes at the model's temperature (100
        where it is unknown), and how many examples had a label (`examples`) and how many had none (`unlabelled`).
    batch: rows of a global batch while embedding.

    After `run`, `artifacts` holds, for the n labelled examples, `index` [n] in the source, `embeddings` [n, D],
    `labels` [n], `ranks` [n] of the right class, `predicted` [n] and its `confidence` [n]; and `classes`, the names,
    with `class_embeddings` [C, D].
    """

    def __init__(
        self,
        *,
        source: Annotated[Part, "source"],
        transforms: Sequence[Annotated[Part, "transform"]] = (),
        label: str = "label",
        classes: Sequence[str] | str | None = None,
        prompts: str = "name/1",
        templates: Sequence[str] | None = None,
        length: int,
        query: str = "text",
        item: str = "image",
        topk: Sequence[int] = (1, 5),
        batch: int = 200,
        tokenizer: Tokenizer | None = None,
        mesh: Mesh,
    ):
        self.prompts = ClassPrompts(
            "zero_shot",
            classes=classes,
            templates=templates,
            prompts=prompts,
            length=length,
            query=query,
            batch=batch,
            tokenizer=tokenizer,
        )
        self.examples = Examples(source, transforms, tokenizer, batch)
        self.label, self.item, self.topk, self.mesh = label, item, tuple(topk), mesh
        self.artifacts: dict[str, Any] = {}

    def run(self, encode: Encode) -> dict[str, float]:
        names, targets = self.targets
        centres = self.prompts.embed(names, encode)
        index = np.flatnonzero(targets >= 0)
        examples, target = self.examples.embed(encode, self.item)[self.item][index], targets[index]
        rank = ranks(examples, centres, target, np.arange(len(names), dtype=np.int32), self.mesh)
        confidence, predicted = over_rows(classify, examples, (centres, np.float32(logit_scale(encode))), self.mesh)
        self.artifacts = {
            "index": index,
            "embeddings": examples,
            "labels": target,
            "ranks": rank,
            "predicted": predicted,
            "confidence": confidence,
            "classes": names,
            "class_embeddings": centres,
        }
        return {
            **{f"accuracy@{k}": mean(rank <= k) for k in self.topk},
            "mean_per_class_accuracy": mean([np.mean(rank[target == c] == 1) for c in np.unique(target)]),
            "calibration_error": calibration_error(confidence, predicted == target),
            "examples": float(len(index)),
            "unlabelled": float(len(targets) - len(index)),
        }

    @functools.cached_property
    def targets(self) -> tuple[list[str], Int32[np.ndarray, "n"]]:
        """Class names, and the class of each example, -1 for those without; read once."""
        names, classes = self.prompts.resolve(self.examples.column(self.label), self.examples.source, self.label)
        return names, np.array([c[0] if len(c) else -1 for c in classes], np.int32)


def classify(x: Float[Array, "n d"], shared: Any) -> tuple[Float[Array, "n"], Int32[Array, "n"]]:
    """The probability of the likeliest class, and which it is."""
    centres, scale = shared
    p = jax.nn.softmax(scale * jnp.einsum("nd,cd->nc", x, centres, precision=jax.lax.Precision.HIGHEST), axis=1)
    return p.max(1), p.argmax(1).astype(jnp.int32)

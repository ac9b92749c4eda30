"""Another evaluator's numbers when the examples are disturbed: corruption sweeps and backdoors."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from jax.sharding import Mesh

from bigcl import registry
from bigcl.data.tokenizers import Tokenizer
from bigcl.evals import Encode
from bigcl.evals.metrics import mean
from bigcl.registry import ConfigError, Part, nearest


class Robustness:
    """Runs an evaluator on its examples as they are, and again under each variant.

    evaluator: any, whose `examples` are disturbed. What a probe is fitted to stays as it is.
    variants: name -> transforms that are put in after those of the kind `after` (in front, where there is none).
    after: such as "decode_image", for what changes pixels.
    target: for a backdoor, the class that the trigger is to call up, and an evaluator that classifies (`zero_shot`):
        `<variant>/success_rate` is the share of the examples of other classes that are taken for it (Gu et al. 2017;
        Carlini and Terzis 2022), and `clean/success_rate` what it is without trigger.

    Reported are the evaluator's numbers as `clean/<metric>` and `<variant>/<metric>`, and `mean/<metric>` over the
    variants (Hendrycks and Dietterich 2019). After `run`, `artifacts` holds each variant's artifacts by its name.
    """

    def __init__(
        self,
        *,
        evaluator: Annotated[Part, "evaluator"],
        variants: Mapping[str, Sequence[Annotated[Part, "transform"]]],
        after: str = "decode_image",
        target: str | None = None,
        tokenizer: Tokenizer | None = None,
        mesh: Mesh,
    ):
        if not variants or "clean" in variants or "mean" in variants:
            raise ConfigError(f"robustness.variants: one or more, none called clean or mean; got {list(variants)}")
        own = evaluator.get("transforms", ())
        at = max((i + 1 for i, part in enumerate(own) if part["kind"] == after), default=0)
        self.evaluators = {}
        for name, added in {"clean": (), **variants}.items():
            built = self.evaluators[name] = registry.build("evaluator", evaluator, tokenizer=tokenizer, mesh=mesh)
            if not hasattr(built, "examples"):
                raise ConfigError(f"robustness.evaluator: {evaluator['kind']!r} has no examples of its own to disturb")
            disturbing = [registry.build("transform", part, tokenizer=tokenizer) for part in added]
            built.examples.transforms[at:at] = disturbing
        self.target = target
        self.artifacts: dict[str, Any] = {}

    def run(self, encode: Encode) -> dict[str, float]:
        self.artifacts = {}
        found = {}
        for name, evaluator in self.evaluators.items():
            found[name] = evaluator.run(encode)
            self.artifacts[name] = evaluator.artifacts
            if self.target is not None:
                found[name] |= {"success_rate": success_rate(evaluator.artifacts, self.target)}
        numbers = {f"{name}/{metric}": value for name, part in found.items() for metric, value in part.items()}
        variants = [part for name, part in found.items() if name != "clean"]
        return {**{f"mean/{metric}": mean([part[metric] for part in variants]) for metric in found["clean"]}, **numbers}


def success_rate(artifacts: Mapping[str, Any], target: str) -> float:
    """The share of the examples of other classes that are taken for `target`."""
    if "predicted" not in artifacts or "classes" not in artifacts:
        raise ConfigError("robustness.target: needs an evaluator that classifies, such as 'zero_shot'")
    classes = list(map(str, artifacts["classes"]))
    if target not in classes:
        raise ConfigError(f"robustness.target: no class {target!r}; {nearest(target, classes)}")
    number = classes.index(target)
    return mean(np.asarray(artifacts["predicted"])[artifacts["labels"] != number] == number)

"""The terms of a task's loss: each a loss function, what it compares, and how much and when it counts."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bigcl import registry
from bigcl.losses.telemetry import ROWS
from bigcl.registry import ConfigError, Part
from bigcl.tasks.task import Batch, Moment

SUPPLIED = ("scale", "bias", "rng")
"""Arguments of a loss that come from the task itself."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Term:
    """One loss of a task.

    function: the loss with its options.
    of: names of the outputs that it compares.
    scale: a fixed inverse temperature, or the name of a learned one ("" for the task's own).
    arrays: further arguments of the function, each with the name of an output, of a key of the batch, or of a learned
        scale.
    when: the shares of the run between which it counts.
    embeddings: the dtype that it is given outputs in; None: the one they have.
    name: what it is called in the log.
    """

    function: Callable[..., Float[Array, ""]]
    of: tuple[str, ...]
    weight: float
    scale: float | str
    arrays: tuple[tuple[str, str], ...]
    when: tuple[float, float]
    embeddings: str | None
    name: str

    def __call__(
        self,
        outputs: Mapping[str, Array],
        batch: Batch,
        scales: Mapping[str, Float[Array, ""]],
        bias: Float[Array, ""] | None,
        moment: Moment | None,
        by_row: bool = False,
    ) -> Float[Array, ""] | Float[Array, "b"]:
        """The value, without its weight; by_row: the terms of the mean that it is."""
        known = {**scales, **batch, **(rounded(outputs, self.embeddings) if self.embeddings else outputs)}
        for name in (*self.of, *dict(self.arrays).values()):
            if name not in known:
                raise ConfigError(f"task.losses: {self.name}: no {name!r} here; {registry.nearest(name, known)}")
        takes = registry.signature(self.function)
        arguments = {key: known[name] for key, name in self.arrays}
        if "scale" in takes:
            given = scales[self.scale] if isinstance(self.scale, str) else jnp.asarray(self.scale, jnp.float32)
            arguments["scale"] = given
        if "bias" in takes and bias is not None:
            arguments["bias"] = bias
        if "rng" in takes:
            arguments["rng"] = jax.random.key(0) if moment is None else moment.rng
        function: Any = self.function
        if by_row:
            function = functools.partial(ROWS[function.func], **function.keywords)
        return function(*(known[name] for name in self.of), **arguments)

    def has_rows(self) -> bool:
        """Whether it is a plain mean over rows."""
        return getattr(self.function, "func", None) in ROWS and not {"mask", "weight"} & dict(self.arrays).keys()

    def share(self, moment: Moment | None, steps: int | None) -> Float[Array, ""] | float:
        """Its weight at this moment of a run of `steps`."""
        if moment is None or steps is None or self.when == (0.0, 1.0):
            return self.weight
        done = moment.step.astype(jnp.float32) / steps
        return jnp.where((self.when[0] <= done) & (done < self.when[1]), jnp.float32(self.weight), jnp.float32(0))


def rounded(outputs: Mapping[str, Array], dtype: str) -> dict[str, Array]:
    """Embeddings and tokens in another dtype; masks as they are."""
    return {k: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x for k, x in outputs.items()}


def make_terms(parts: Sequence[Part], outputs: Collection[str], scales: Collection[str]) -> tuple[Term, ...]:
    """The terms of a list of losses. Raises ConfigError for one that compares what there is not.

    outputs, scales: names that the task knows.
    """
    groups = [tuple(part.get("of", ())) for part in parts]
    terms: list[Term] = []
    for i, (part, of) in enumerate(zip(parts, groups, strict=True)):
        where = f"task.losses[{i}]"
        for name in of:
            if name not in outputs:
                raise ConfigError(f"{where}.of: unknown input {name!r}; {registry.nearest(name, outputs)}")
        function = registry.bind("loss", part)
        check_count(function, part, of, where)
        scale = part.get("scale", "")
        if isinstance(scale, str) and scale not in scales:
            raise ConfigError(f"{where}.scale: unknown {scale!r}; {registry.nearest(scale, scales)} (task.scales)")
        when = tuple(part.get("when", (0.0, 1.0)))
        if len(when) != 2 or not 0 <= when[0] < when[1] <= 1:
            raise ConfigError(f"{where}.when: expected two shares of the run, as [0, 0.5], got {list(when)}")
        plain = "_".join(of).replace("/", "_")
        name = part.get("name") or (plain if groups.count(of) == 1 else f"{plain}/{part['kind']}")
        if name in [term.name for term in terms]:
            raise ConfigError(f"{where}.name: another loss is called {name!r} in the log; give this one a name")
        arrays = tuple(part.get("with", {}).items())
        terms.append(
            Term(
                function=function,
                of=of,
                weight=float(part.get("weight", 1.0)),
                scale=scale,
                arrays=arrays,
                when=(float(when[0]), float(when[1])),
                embeddings=part.get("embeddings"),
                name=name,
            )
        )
    return tuple(terms)


def check_count(function: Any, part: Part, of: tuple[str, ...], where: str) -> None:
    """Raises ConfigError if a loss cannot compare so many things, or lacks an argument."""
    parameters = inspect.signature(function).parameters.values()
    arrays = [*part.get("with", {})]
    for name in arrays:
        if name not in registry.signature(function):
            known = registry.signature(function)
            raise ConfigError(f"{where}.with: {part['kind']} has no {name!r}; {registry.nearest(name, known)}")
    for p in parameters:
        if p.kind is p.KEYWORD_ONLY and p.default is p.empty and p.name not in (*arrays, *SUPPLIED):
            raise ConfigError(
                f"{where}: {part['kind']} needs {p.name!r}; name an output of the task, a key of the batch or one of "
                f'task.scales: "with": {{"{p.name}": "..."}}'
            )
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        if not of:
            raise ConfigError(f"{where}.of: expected one input or more, got none")
        return
    compared = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name not in ("scale", "bias")]
    if len(of) != len(compared):
        words = {1: "one input", 2: "two inputs"}.get(len(compared), f"{len(compared)} inputs")
        raise ConfigError(f"{where}.of: expected {words}, got {list(of)}")

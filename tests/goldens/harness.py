"""Runs bigcl's functions on stored inputs and compares outputs and gradients with stored ones.

A folder `<slug>/` holds `cases.npz` with arrays `CASE/in/NAME`, `CASE/out/NAME`, `CASE/grad/NAME`, and `meta.json`,
which lists functions and for each its cases with hyperparameters and a tolerance. `tests/goldens/adapters/<slug>.py`
maps the functions' names to callables `(inputs, **hyperparameters) -> outputs`, both dictionaries of arrays.

Gradients are of the output `loss`, or of what the case (`gradient_of`) or its function (`grad_of`) names: an output, or
a reduction of one such as `half_sumsq:out`. They are taken with respect to exactly the inputs that have a stored
gradient.

Everything runs in float64: inputs are handed over as stored, and what a function then computes in is its own affair.
"""

import dataclasses
import functools
import importlib
import inspect
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Outputs = dict[str, jax.Array]
Function = Callable[..., Outputs]

FLOOR = 1e-4
"""Arrays of smaller magnitude than this are compared as if they had it: the relative error of a zero says nothing."""

DRAWN = frozenset({"seed", "world_size"})
"""Hyperparameters that only tell how the stored numbers were drawn or computed, whatever the function."""

REDUCTIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "half_sumsq": lambda x: 0.5 * jnp.square(x).sum(),
    "sum_cubes": lambda x: (x**3).sum(),
}
"""How `grad_of` makes a scalar of an output: "half_sumsq:out"."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One stored call. gradient_of: the scalar that was differentiated, as an output's name or `REDUCTION:NAME`."""

    slug: str
    function: str
    name: str
    hyperparameters: dict[str, Any]
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    gradients: dict[str, np.ndarray]
    gradient_of: str
    tolerance: float

    def __str__(self) -> str:
        return f"{self.slug}/{self.name}"


def ignores(*names: str) -> Callable[[Function], Function]:
    """Makes a function ignore hyperparameters by name: `names`, and those of `DRAWN` that it does not ask for.

    Any other that it does not know stays an error.
    """

    def decorate(function: Function) -> Function:
        ignored = {*names, *(DRAWN - inspect.signature(function).parameters.keys())}

        @functools.wraps(function)
        def call(inputs: Mapping[str, jax.Array], **hyperparameters: Any) -> Outputs:
            return function(inputs, **{k: v for k, v in hyperparameters.items() if k not in ignored})

        return call

    return decorate


def load(folder: pathlib.Path) -> Iterator[Case]:
    """The cases of a folder that holds `cases.npz` and `meta.json`."""
    meta = json.loads((folder / "meta.json").read_text())
    with np.load(folder / "cases.npz") as file:
        arrays = dict(file)

    def group(case: str, kind: str) -> dict[str, np.ndarray]:
        prefix = f"{case}/{kind}/"
        return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}

    for function in meta["functions"]:
        for case in function["cases"]:
            name = case["name"]
            gradient_of = case.get("gradient_of") or function.get("grad_of") or "loss"
            yield Case(
                slug=meta["slug"],
                function=function["name"],
                name=name,
                hyperparameters=case.get("hyperparameters", {}),
                inputs=group(name, "in"),
                outputs=group(name, "out"),
                gradients=group(name, "grad"),
                gradient_of=gradient_of,
                tolerance=case["tolerance"],
            )


def adapter(slug: str) -> dict[str, Function]:
    """The functions of a slug."""
    return importlib.import_module(f"tests.goldens.adapters.{slug.replace('-', '_')}").FUNCTIONS


def run(case: Case, function: Function) -> tuple[Outputs, Outputs]:
    """Outputs, and gradients by input."""
    with jax.enable_x64(True):
        inputs = {k: jnp.asarray(v) for k, v in case.inputs.items()}
        call = functools.partial(function, **case.hyperparameters)
        if not case.gradients:
            return call(inputs), {}

        def objective(chosen: dict[str, jax.Array]) -> tuple[jax.Array, Outputs]:
            outputs = call({**inputs, **chosen})
            reduction, _, name = case.gradient_of.rpartition(":")
            return REDUCTIONS[reduction](outputs[name]) if reduction else outputs[name], outputs

        chosen = {k: inputs[k] for k in case.gradients}
        gradients, outputs = jax.jit(jax.grad(objective, has_aux=True))(chosen)
        return outputs, gradients


def difference(got: Any, expected: np.ndarray) -> float:
    """The largest absolute difference, in units of the largest finite magnitude in `expected` (at least FLOOR).

    Integers and booleans are equal (0) or not (infinity); so are shapes, and the places of infinities and NaN.
    """
    got = np.asarray(got)
    if got.shape != expected.shape:
        return np.inf
    if expected.dtype.kind != "f":
        return 0.0 if np.array_equal(got, expected) else np.inf
    got, finite = got.astype(np.float64), np.isfinite(expected)
    if not np.array_equal(got[~finite], expected[~finite], equal_nan=True) or not np.isfinite(got[finite]).all():
        return np.inf
    scale = max(np.abs(expected[finite]).max(initial=0.0), FLOOR)
    return float(np.abs(got[finite] - expected[finite]).max(initial=0.0) / scale)


def differences(case: Case, function: Function) -> dict[str, float]:
    """The difference of each stored output ("out/NAME") and gradient ("grad/NAME"); infinite for one that is
    missing."""
    outputs, gradients = run(case, function)
    found = {f"out/{k}": difference(outputs[k], v) if k in outputs else np.inf for k, v in case.outputs.items()}
    return found | {f"grad/{k}": difference(gradients[k], v) for k, v in case.gradients.items()}

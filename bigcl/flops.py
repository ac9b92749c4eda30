"""How many floating-point operations a step needs, counted in its program."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from bigcl.chips import device_figures

RECOMPUTED = "_stream"
"""The function with a gradient of its own that computes its products anew: `bigcl.losses.streaming`."""


def peak_tflops() -> float | None:
    """The bfloat16 peak of all devices together, or None for devices that the table does not know (a CPU has no useful
    figure)."""
    figures = device_figures(jax.devices())
    return figures.tflops * jax.device_count() if figures else None


class Product(NamedTuple):
    """A matrix product or convolution. flops: of all the times that it runs.  rules: names of the functions with a
    gradient of their own around it."""

    equation: Any
    flops: float
    rules: frozenset[str]


def products(jaxpr: Any, times: float = 1.0, rules: frozenset[str] = frozenset()) -> Iterator[Product]:
    """All of a program that runs so many times; loops are multiplied out."""
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name in ("dot_general", "conv_general_dilated"):
            yield Product(eqn, times * 2.0 * (dot if name == "dot_general" else convolution)(eqn), rules)
            continue
        inside = rules | {eqn.params["call_jaxpr"].jaxpr.debug_info.func_name} if name == "custom_vjp_call" else rules
        for inner in filter(is_jaxpr, jax.tree.leaves(list(eqn.params.values()), is_leaf=is_jaxpr)):
            yield from products(
                getattr(inner, "jaxpr", inner), times * (eqn.params["length"] if name == "scan" else 1), inside
            )


def dot(eqn: Any) -> int:
    """Multiply-adds of a matrix product."""
    (contract, _), _ = eqn.params["dimension_numbers"]
    return math.prod(eqn.outvars[0].aval.shape) * math.prod(eqn.invars[0].aval.shape[i] for i in contract)


def convolution(eqn: Any) -> int:
    """Multiply-adds of a convolution.

    Each place of the kernel meets each place of the output once, and each of the input at most once: the fewer of the
    two count, and so no zeros that pad the input or, in the gradient of a strided convolution, lie in between.
    """
    numbers, (x, kernel), out = eqn.params["dimension_numbers"], (v.aval.shape for v in eqn.invars), eqn.outvars[0].aval
    ends = math.prod(out.shape[i] for i in numbers.out_spec[:2])
    places = math.prod(min(out.shape[i], x[j]) for i, j in zip(numbers.out_spec[2:], numbers.lhs_spec[2:], strict=True))
    return ends * places * math.prod(kernel) // kernel[numbers.rhs_spec[0]]


def count(jaxpr: Any) -> float:
    """Operations of the matrix products and convolutions in a program: two for each multiply-add, loops multiplied out.

    Elementwise work is left out, as in the usual definition of model FLOPs (PaLM, Chowdhery et al. 2022, appendix B);
    attention counts in full, masked or not.
    """
    return sum(p.flops for p in products(jaxpr))


def model_flops(loss: Callable[..., Any], *arguments: Any) -> float:
    """Operations of a loss and of its gradient by the first argument, without recomputation: the streamed sums over all
    pairs, whose gradient computes each tile anew, count three products, not the four that run. Theirs is always the
    gradient by both sides, trained or not."""
    forward, training = (jax.make_jaxpr(f)(*arguments).jaxpr for f in (loss, jax.grad(loss)))
    streamed, left = (sum(p.flops for p in products(j) if RECOMPUTED in p.rules) for j in (forward, training))
    return count(training) - (streamed - left)  # a call that is left has no gradient


def is_jaxpr(x: Any) -> bool:
    """Whether a parameter of an equation is a program."""
    return hasattr(x, "eqns") or hasattr(x, "jaxpr")

"""How many floating-point operations a step needs, counted in its program."""

import math
from typing import Any

import jax

from bigcl.chips import chip


def peak_tflops() -> float | None:
    """The peak of all devices together, or None for devices that the table does not know (a CPU has no useful
    figure)."""
    figures = chip(jax.devices()[0].device_kind)
    return figures.tflops * jax.device_count() if figures else None


def count(jaxpr: Any) -> float:
    """Operations of the matrix products and convolutions in a program: two for each multiply-add, loops multiplied out.

    Elementwise work is left out, as in the usual definition of model FLOPs (PaLM, Chowdhery et al. 2022, appendix B);
    attention counts in full, masked or not.
    """
    total = 0.0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contract, _), _ = eqn.params["dimension_numbers"]
            total += (
                2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(eqn.invars[0].aval.shape[i] for i in contract)
            )
        elif eqn.primitive.name == "conv_general_dilated":
            kernel = eqn.invars[1].aval.shape
            out_channels = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
            total += 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(kernel) / out_channels
        else:
            inner = sum(
                count(getattr(j, "jaxpr", j))
                for j in jax.tree.leaves(list(eqn.params.values()), is_leaf=is_jaxpr)
                if is_jaxpr(j)
            )
            total += inner * (eqn.params["length"] if eqn.primitive.name == "scan" else 1)
    return total


def is_jaxpr(x: Any) -> bool:
    """Whether a parameter of an equation is a program."""
    return hasattr(x, "eqns") or hasattr(x, "jaxpr")

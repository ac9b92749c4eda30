"""What the products with a transformer block's weights run in: the compute dtype, or eight bits as an experiment."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

Matmul = Literal["plain", "int8", "fp8"]

PRODUCT = "product"
"""The name of a product for `jax.checkpoint`, whose policies do not see into a function with its own gradient."""

DotGeneral = Callable[..., Array]
"""With the signature of `jax.lax.dot_general`."""

QTYPES: dict[str, tuple[Any, Any]] = {
    "int8": (jnp.int8, jnp.int8),
    "fp8": (jnp.float8_e4m3fn, jnp.float8_e5m2),
}
"""Of inputs and weights, and of gradients (fp8: Micikevicius et al. 2022)."""


@functools.cache
def dot_general(matmul: Matmul) -> DotGeneral:
    """The product that a block uses.

    Eight bits: SwitchBack (Wortsman et al. 2023). Outputs and the gradient of the inputs are products of quantised
    arrays, with one scale for each row of either side (the largest magnitude); the gradient of the weights, a sum over
    all tokens, stays in the compute dtype. Weights are stored in float32 and quantised in each step.

    Raises ImportError without qwix.
    """
    if matmul == "plain":
        return plain
    try:
        import qwix  # noqa: F401
    except ImportError as error:
        raise ImportError(f'matmul="{matmul}" needs qwix: pip install "bigcl[quantized]"') from error
    return functools.partial(switchback, qtypes=QTYPES[matmul])


def dense(product: DotGeneral, x: Float[Array, "..."], kernel: Float[Array, "..."], axes: int = 1) -> Array:
    """The last `axes` axes of `x` contracted with the first of `kernel`."""
    last = tuple(range(x.ndim - axes, x.ndim))
    return product(x, kernel, ((last, tuple(range(axes))), ((), ())))


def plain(
    x: Array, kernel: Array, dimension_numbers: Any, precision: Any = None, preferred_element_type: Any = None, **_: Any
) -> Array:
    """`jax.lax.dot_general` for `dense`, with the gradient of the weights in that one of its two orders in which XLA on
    CPU turns the narrower side: 4% of a training step of CLIP B/32. (Of JAX's own it turns the gradient of the outputs,
    always.)"""
    product = plain_dense(len(dimension_numbers[0][0]), precision, preferred_element_type, x, kernel)
    return checkpoint_name(product, PRODUCT)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def plain_dense(axes: int, precision: Any, dtype: Any, x: Array, kernel: Array) -> Array:
    """`dense`."""
    contracted = tuple(range(x.ndim - axes, x.ndim)), tuple(range(axes))
    return jax.lax.dot_general(x, kernel, (contracted, ((), ())), precision, dtype)


def _plain_forward(axes: int, precision: Any, dtype: Any, x: Array, kernel: Array) -> tuple[Array, Any]:
    return plain_dense(axes, precision, dtype, x, kernel), (x, kernel)


def _plain_backward(axes: int, precision: Any, dtype: Any, kept: Any, gradient: Array) -> tuple[Array, Array]:
    x, kernel = kept
    lead = tuple(range(x.ndim - axes))
    outputs = tuple(range(len(lead), gradient.ndim)), tuple(range(axes, kernel.ndim))
    d_x = jax.lax.dot_general(gradient, kernel, (outputs, ((), ())), precision, x.dtype)
    wide = math.prod(kernel.shape[:axes]) > math.prod(kernel.shape[axes:])
    left, right = (gradient, x) if wide else (x, gradient)
    d_kernel = jax.lax.dot_general(left, right, ((lead, lead), ((), ())), precision, kernel.dtype)
    return d_x, jnp.moveaxis(d_kernel, range(-axes, 0), range(axes)) if wide else d_kernel


plain_dense.defvjp(_plain_forward, _plain_backward)


def switchback(x: Array, kernel: Array, dimension_numbers: Any, *, qtypes: tuple[Any, Any], **_: Any) -> Array:
    """`dense` in the form of a dot_general (precision and the like do not apply)."""
    return checkpoint_name(eight_bit_dense(len(dimension_numbers[0][0]), qtypes, x, kernel), PRODUCT)


def eight_bit(x: Array, y: Array, axes: tuple[Sequence[int], Sequence[int]], qtypes: tuple[Any, Any]) -> Array:
    """The product of both sides quantised, contracted over `axes`."""
    import qwix

    with jax.numpy_dtype_promotion("standard"):  # qwix multiplies sums of integers by float scales on purpose
        x_q, y_q = (
            qwix.quantize(side, qtype, channelwise_axes=[i for i in range(side.ndim) if i not in contracted])
            for side, qtype, contracted in zip((x, y), qtypes, axes, strict=True)
        )
        return qwix.dot_general(x_q, y_q, (axes, ((), ()))).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def eight_bit_dense(axes: int, qtypes: tuple[Any, Any], x: Array, kernel: Array) -> Array:
    """`dense` with inputs and weights quantised."""
    return eight_bit(x, kernel, (range(x.ndim - axes, x.ndim), range(axes)), (qtypes[0], qtypes[0]))


def _forward(axes: int, qtypes: tuple[Any, Any], x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return eight_bit_dense(axes, qtypes, x, kernel), (x, kernel)


def _backward(axes: int, qtypes: tuple[Any, Any], kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = kept
    lead = tuple(range(x.ndim - axes))
    outputs = (range(len(lead), gradient.ndim), range(axes, kernel.ndim))
    d_x = eight_bit(gradient, kernel, outputs, qtypes[::-1])
    return d_x, jax.lax.dot_general(x, gradient, ((lead, lead), ((), ())))


eight_bit_dense.defvjp(_forward, _backward)

"""float32 sums in the memory of their bfloat16 result and as much again.

A gradient of bfloat16 embeddings is summed over tiles in float32 and rounded once, at the end. bfloat16 is the upper
half of float32: with the sum kept as two arrays of half its bits, the upper one is rounded in place, and no array of
float32 stands beside the result.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, BFloat16, Float32, UInt16


class Halves(NamedTuple):
    """The upper and the lower bits of a float32 array."""

    upper: BFloat16[Array, "*n"]
    lower: UInt16[Array, "*n"]


def is_halves(x: Any) -> bool:
    """For `jax.tree.map`, to which they would be two leaves."""
    return isinstance(x, Halves)


def halves(x: Float32[Array, "*n"]) -> Halves:
    """Exact; `whole` is its inverse."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    upper = jax.lax.bitcast_convert_type((bits >> 16).astype(jnp.uint16), jnp.bfloat16)
    return Halves(upper, bits.astype(jnp.uint16))


def whole(x: Halves) -> Float32[Array, "*n"]:
    """The float32 array."""
    upper = jax.lax.bitcast_convert_type(x.upper, jnp.uint16)
    bits = upper.astype(jnp.uint32) << 16 | x.lower.astype(jnp.uint32)
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


def rounded(x: Halves, size: int) -> BFloat16[Array, "n *m"]:
    """To nearest, as a cast of the float32 array; in place, `size` rows at a time, as XLA would not do by itself."""

    def some(upper: Array, first: Array | int, count: int) -> Array:
        part = Halves(*(jax.lax.dynamic_slice_in_dim(half, first, count) for half in (upper, x.lower)))
        return jax.lax.dynamic_update_slice_in_dim(upper, whole(part).astype(jnp.bfloat16), first, 0)

    size = min(size, len(x.upper))
    tiles, rest = divmod(len(x.upper), size)
    upper = jax.lax.scan(lambda u, i: (some(u, i * size, size), None), x.upper, jnp.arange(tiles))[0]
    return some(upper, tiles * size, rest) if rest else upper

"""Small pieces that every contrastive loss starts from."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def at_least_float32(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Half-precision arrays as float32; float32 and float64 unchanged."""
    return x.astype(jnp.float32) if x.dtype.itemsize < 4 else x


def l2_normalize(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """Rows of unit length, in float32 or better. A zero row stays zero, with finite gradient."""
    x = at_least_float32(x)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-24))

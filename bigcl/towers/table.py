"""Free embeddings: a row of parameters for each example, to study a loss without any encoder."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Int, Key

from bigcl.towers.encoding import Encoding


class Table(nnx.Module):
    """Row number `[B]` to that row of a table of parameters: `[B, width]`.

    spread: rows start as a random unit vector, the same for all, plus `spread / sqrt(width)` standard normal noise: a
        cone, in which the outputs of a fresh network lie (Liang et al. 2022).
    """

    def __init__(self, *, rows: int, width: int, spread: float = 0.5, dtype=jnp.float32, rngs: nnx.Rngs):
        centre = jax.random.normal(rngs.params(), (width,))
        noise = jax.random.normal(rngs.params(), (rows, width))
        start = (centre / jnp.linalg.norm(centre))[None] + spread / math.sqrt(width) * noise
        self.rows, self.dtype = nnx.Param(start / jnp.linalg.norm(start, axis=1, keepdims=True)), dtype

    def __call__(self, index: Int[Array, "b"], mask=None, rng: Key[Array, "b"] | None = None) -> Encoding:
        del mask, rng
        return Encoding(self.rows[...].astype(self.dtype)[index])

    def reads(self) -> jax.ShapeDtypeStruct:
        """One number."""
        return jax.ShapeDtypeStruct((), jnp.int32)

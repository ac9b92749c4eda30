"""A recurrent tower over frames of features or over ids."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key, Shaped

from bigcl.towers.encoding import Encoding


class GRU(nnx.Module):
    """A gated recurrent unit (Cho et al. 2014) read from left to right: `[B, N, inputs]` features, or `[B, N]` ids, to
    the last real state, through a linear layer: `[B, embed_dim]`.

    length: N.
    inputs: width of the features; None reads ids of a vocabulary of `vocab`, embedded in `width`.
    width: of the state.
    """

    def __init__(
        self,
        *,
        length: int,
        width: int,
        embed_dim: int,
        inputs: int | None = None,
        vocab: int | None = None,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        if inputs is None and vocab is None:
            raise ValueError("gru: give inputs, or the vocab of ids")
        self.length, self.inputs, self.width, self.dtype = length, inputs, width, dtype
        if inputs is None:
            self.vocab = vocab
        self.embed = None if inputs else nnx.Param(nnx.initializers.normal(1.0)(rngs.params(), (vocab or 0, width)))
        self.input = nnx.Linear(inputs or width, 3 * width, dtype=dtype, rngs=rngs)
        self.state = nnx.Linear(
            width, 3 * width, kernel_init=nnx.initializers.orthogonal(), use_bias=False, dtype=dtype, rngs=rngs
        )
        self.state_bias = nnx.Param(jnp.zeros((width,)))
        self.projection = nnx.Linear(width, embed_dim, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: Shaped[Array, "b n ..."],
        mask: Bool[Array, "b n"] | None = None,
        rng: Key[Array, "b"] | None = None,
    ) -> Encoding:
        """`mask`: which steps are real (all by default); the state does not change in the others."""
        del rng
        frames = x.astype(self.dtype) if self.embed is None else self.embed[...].astype(self.dtype)[x]
        real = jnp.ones(frames.shape[:2], bool) if mask is None else mask

        def step(h: Float[Array, "b w"], inputs: tuple[Array, Array]) -> tuple[Array, Array]:
            gates, valid = inputs
            reset, update, candidate = jnp.split(gates, 3, axis=-1)
            own_reset, own_update, own = jnp.split(self.state(h), 3, axis=-1)
            r, z = jax.nn.sigmoid(reset + own_reset), jax.nn.sigmoid(update + own_update)
            n = jnp.tanh(candidate + r * (own + self.state_bias[...].astype(h.dtype)[None]))
            h = jnp.where(valid[:, None], (1 - z) * n + z * h, h)
            return h, h

        start = jnp.zeros((len(frames), self.width), self.dtype)
        last, states = jax.lax.scan(step, start, (self.input(frames).swapaxes(0, 1), real.swapaxes(0, 1)))
        return Encoding(self.projection(last), states.swapaxes(0, 1), mask, last)

    def reads(self) -> jax.ShapeDtypeStruct:
        """One sequence."""
        if self.inputs is None:
            return jax.ShapeDtypeStruct((self.length,), jnp.int32)
        return jax.ShapeDtypeStruct((self.length, self.inputs), jnp.float32)

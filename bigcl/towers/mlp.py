"""A multilayer perceptron over feature vectors: tabular inputs, precomputed features, toy problems."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from bigcl.towers.encoding import Encoding
from bigcl.towers.layers import ACTIVATIONS, Activation


class MLP(nnx.Module):
    """Dense layers of the given `widths`, with `activation` between them: `[B, inputs] -> [B, widths[-1]]`."""

    def __init__(
        self, *, inputs: int, widths: Sequence[int], activation: Activation = "gelu", dtype=jnp.float32, rngs: nnx.Rngs
    ):
        self.inputs, self.activation, self.dtype = inputs, activation, dtype
        sizes = (inputs, *widths)
        self.layers = nnx.List(nnx.Linear(i, o, dtype=dtype, rngs=rngs) for i, o in itertools.pairwise(sizes))

    def __call__(self, x: Float[Array, "b n"], mask=None, rng: Key[Array, "b"] | None = None) -> Encoding:
        del mask, rng
        x, features = x.astype(self.dtype), None
        for i, layer in enumerate(self.layers):
            features = x if i == 0 else ACTIVATIONS[self.activation](x)
            x = layer(features)
        return Encoding(x, features=features)

    def reads(self) -> jax.ShapeDtypeStruct:
        """One vector of features."""
        return jax.ShapeDtypeStruct((self.inputs,), jnp.float32)

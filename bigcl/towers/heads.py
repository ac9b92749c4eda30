"""Projection heads: from the output of a tower to the space of one loss, for training alone."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from bigcl.losses import l2_normalize
from bigcl.losses.similarity import at_least_float32
from bigcl.towers.layers import ACTIVATIONS, Activation


class MLPHead(nnx.Module):
    """Dense layers over the last axis, with `activation` between them (SimCLR, Chen et al. 2020): `[..., inputs] ->
    [..., widths[-1]]`.

    inputs: width of what it reads.
    batch_norm: normalise after each layer but the last over the whole global batch (Ioffe and Szegedy 2015), as BYOL,
        Barlow Twins and SimSiam need it; a head is no part of what is evaluated, so it keeps no running statistics.
    last_norm: normalise after the last layer too, without scale and bias.
    normalize: whether outputs have unit length.
    """

    def __init__(
        self,
        *,
        inputs: int,
        widths: Sequence[int],
        activation: Activation = "relu",
        batch_norm: bool = False,
        last_norm: bool = False,
        normalize: bool = True,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.activation, self.last_norm, self.normalize, self.dtype = activation, last_norm, normalize, dtype
        sizes = (inputs, *widths)
        self.layers = nnx.List(nnx.Linear(i, o, dtype=dtype, rngs=rngs) for i, o in itertools.pairwise(sizes))
        self.norms = nnx.List(BatchNorm(width) for width in widths[:-1]) if batch_norm else None

    def __call__(self, x: Float[Array, "*b i"]) -> Float[Array, "*b o"]:
        x = x.astype(self.dtype)
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i < last:
                x = ACTIVATIONS[self.activation](x if self.norms is None else self.norms[i](x))
        x = standardized(x) if self.last_norm else at_least_float32(x)
        return l2_normalize(x) if self.normalize else x


class BatchNorm(nnx.Module):
    """Batch normalisation by the statistics of the batch at hand, over all axes but the last."""

    def __init__(self, width: int):
        self.scale, self.bias = nnx.Param(jnp.ones((width,))), nnx.Param(jnp.zeros((width,)))

    def __call__(self, x: Float[Array, "*b w"]) -> Float[Array, "*b w"]:
        lead = (None,) * (x.ndim - 1)
        return (standardized(x) * self.scale[lead] + self.bias[lead]).astype(x.dtype)


def standardized(x: Float[Array, "*b w"], eps: float = 1e-5) -> Float[Array, "*b w"]:
    """Mean zero and variance one over all axes but the last, in float32 or better."""
    x = at_least_float32(x)
    axes = tuple(range(x.ndim - 1))
    x = x - x.mean(axes, keepdims=True)
    return x * jax.lax.rsqrt(jnp.square(x).mean(axes, keepdims=True) + eps)

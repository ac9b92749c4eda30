"""Tokens of several towers put together for one reader."""

from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class MixtureOfFeatures(nnx.Module):
    """Mixture of features (Tong et al. 2024) of the patch tokens of several towers on the same grid.

    mode: "interleaved": a linear map for each tower, and then their tokens in turn, so that those of a place stand
        together: `[B, P, W_m] -> [B, M P, width]`.  "additive": a convex combination of two towers of one width, and
        then a linear map: `[B, P, W] -> [B, P, width]`.
    inputs: width of each tower's tokens.
    alpha: for "additive", the share of the second tower.
    """

    def __init__(
        self,
        inputs: Sequence[int],
        width: int,
        *,
        mode: Literal["interleaved", "additive"] = "interleaved",
        alpha: float = 0.5,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        if mode == "additive" and (len(inputs) != 2 or inputs[0] != inputs[1]):
            raise ValueError(f"mixture of features: additive needs two towers of one width, got {list(inputs)}")
        self.mode, self.alpha = mode, alpha
        maps = inputs[:1] if mode == "additive" else inputs
        self.maps = nnx.List(nnx.Linear(n, width, dtype=dtype, rngs=rngs) for n in maps)

    def __call__(self, *tokens: Float[Array, "b p _"]) -> Float[Array, "b n e"]:
        if self.mode == "additive":
            first, second = tokens
            return self.maps[0](self.alpha * second + (1 - self.alpha) * first)
        return interleave(*(f(x) for f, x in zip(self.maps, tokens, strict=True)))


def interleave(*tokens: Float[Array, "b p e"]) -> Float[Array, "b n e"]:
    """The first token of each, the second of each, and so on: M arrays of P tokens to one of M P."""
    b, _, width = tokens[0].shape
    return jnp.stack(tokens, 2).reshape(b, -1, width)

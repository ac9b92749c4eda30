"""Bags and short sequences of feature vectors or ids without attention: one MLP for every token, then a pooling."""

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key, Shaped

from bigcl.towers.encoding import Encoding
from bigcl.towers.layers import ACTIVATIONS, Activation, masked_mean


class TokenMLP(nnx.Module):
    """`[B, N, inputs]` features, or `[B, N]` ids, to an embedding `[B, D]` and tokens `[B, N, widths[-1]]`.

    length: N.
    inputs: width of the features; None reads ids of a vocabulary of `vocab`, whose embeddings have `width`.
    widths: of the layers that every token goes through.
    pool: "mean" over real tokens, "attention" (the softmax of one learned query), or "concat" (all tokens in order).
    head: widths of the layers after the pooling.
    """

    def __init__(
        self,
        *,
        length: int,
        inputs: int | None = None,
        vocab: int | None = None,
        width: int = 64,
        widths: Sequence[int] = (),
        pool: Literal["mean", "attention", "concat"] = "mean",
        head: Sequence[int] = (),
        activation: Activation = "gelu",
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        if inputs is None and vocab is None:
            raise ValueError("token_mlp: give inputs, or the vocab of ids")
        self.length, self.inputs, self.pool, self.activation, self.dtype = length, inputs, pool, activation, dtype
        if inputs is None:
            self.vocab = vocab
        self.embed = None if inputs else nnx.Param(nnx.initializers.normal(1.0)(rngs.params(), (vocab or 0, width)))
        sizes = (inputs or width, *widths)

        def dense(sizes: Sequence[int]) -> Any:
            return nnx.List(nnx.Linear(i, o, dtype=dtype, rngs=rngs) for i, o in itertools.pairwise(sizes))

        self.layers = dense(sizes)
        out = sizes[-1] * (length if pool == "concat" else 1)
        self.query = (
            nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), (sizes[-1],))) if pool == "attention" else None
        )
        self.head = dense((out, *head))

    def __call__(
        self,
        x: Shaped[Array, "b n ..."],
        mask: Bool[Array, "b n"] | None = None,
        rng: Key[Array, "b"] | None = None,
    ) -> Encoding:
        """`mask`: which tokens are real (all by default)."""
        del rng
        tokens = x.astype(self.dtype) if self.embed is None else self.embed[...].astype(self.dtype)[x]
        _, tokens = self.through(self.layers, tokens)
        features, embedding = self.through(self.head, self.pooled(tokens, mask))
        return Encoding(embedding, tokens, mask, features)

    def through(self, layers: Any, x: Float[Array, "*b i"]) -> tuple[Float[Array, "*b r"] | None, Float[Array, "*b o"]]:
        """Dense layers with the activation between them: what the last of them reads, and what it gives."""
        read = None
        for i, layer in enumerate(layers):
            read = x if i == 0 else ACTIVATIONS[self.activation](x)
            x = layer(read)
        return read, x

    def pooled(self, x: Float[Array, "b n w"], mask: Bool[Array, "b n"] | None) -> Float[Array, "b v"]:
        """One vector per example."""
        if self.pool == "mean":
            return masked_mean(x, mask)
        if self.pool == "concat":
            return (x if mask is None else jnp.where(mask[:, :, None], x, jnp.zeros_like(x))).reshape(len(x), -1)
        assert self.query is not None
        scores = jnp.einsum("bnw,w->bn", x, self.query[...].astype(x.dtype)).astype(jnp.float32)
        weights = jax.nn.softmax(scores, where=mask).astype(x.dtype)
        return jnp.einsum("bn,bnw->bw", weights, x)

    def reads(self) -> jax.ShapeDtypeStruct:
        """One bag."""
        if self.inputs is None:
            return jax.ShapeDtypeStruct((self.length,), jnp.int32)
        return jax.ShapeDtypeStruct((self.length, self.inputs), jnp.float32)

"""Pooling of any tower's tokens by a codebook that all towers share."""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from bigcl.towers.layers import ACTIVATIONS, Norm

CHUNK = 2**24
"""Scores of tokens with codes that are held at once."""


class QueryMap(nnx.Module):
    """Tokens to queries of the codebook (FDT, Chen et al. 2023): `Linear(LN(GELU(Linear(LN(x)))))`, `[B, N, W] ->
    [B, N, D]`. Each tower has its own."""

    def __init__(self, inputs: int, width: int, *, dtype=jnp.float32, rngs: nnx.Rngs):
        self.norm1, self.norm2 = Norm(inputs, eps=1e-5), Norm(width, eps=1e-5)
        self.up = nnx.Linear(inputs, width, dtype=dtype, rngs=rngs)
        self.down = nnx.Linear(width, width, dtype=dtype, rngs=rngs)

    def __call__(self, tokens: Float[Array, "b n w"]) -> Float[Array, "b n d"]:
        return self.down(self.norm2(ACTIVATIONS["gelu"](self.up(self.norm1(tokens)))))


class Codebook(nnx.Module):
    r"""Finite discrete tokens (FDT, Chen et al. 2023): an embedding is a sparse mixture of K learned codes F.

    With queries q of the tokens of an example,

    $$w_k = \max_n \frac{q_n \cdot F_k}{T \sqrt{D}}, \quad z = \mathrm{sparsemax}(w)\,F.$$

    codes, width: K and D.
    temperature: T. From a T near 1 the weights start with a single code each, which passes no gradient.
    pool: how the scores of the tokens are put together. As in the authors' code padding has a score of 0, and counts
        in the mean.
    attention: what makes weights of scores. "sigmoid" weights are divided by their sum for the mixture alone.
    """

    def __init__(
        self,
        codes: int,
        width: int,
        *,
        temperature: float = 1000.0,
        pool: Literal["max", "mean", "sum"] = "max",
        attention: Literal["sparsemax", "softmax", "sigmoid"] = "sparsemax",
        rngs: nnx.Rngs,
    ):
        self.codes = nnx.Param(jax.random.normal(rngs.params(), (codes, width)))
        self.temperature, self.pool, self.attention = temperature, pool, attention

    def __call__(self, queries: Float[Array, "b n d"], mask: Bool[Array, "b n"] | None = None) -> Float[Array, "b d"]:
        """One vector per example, not normalised. mask: which tokens are real."""
        return self.mixture(self.weights(queries, mask))

    def weights(self, queries: Float[Array, "b n d"], mask: Bool[Array, "b n"] | None = None) -> Float[Array, "b k"]:
        """The weight of each code, in float32 or better."""
        codes = self.codes[...]
        queries = queries.astype(codes.dtype)
        if mask is not None:
            queries = jnp.where(mask[:, :, None], queries, 0)
        queries = queries / (self.temperature * math.sqrt(codes.shape[1]))
        if self.pool == "max":
            scores = largest_scores(queries, codes)
        else:  # the mean of products is the product of the mean
            scores = (queries.mean(1) if self.pool == "mean" else queries.sum(1)) @ codes.T
        rules: dict[str, Callable[[Array], Array]] = {
            "sparsemax": sparsemax,
            "softmax": jax.nn.softmax,
            "sigmoid": jax.nn.sigmoid,
        }
        return rules[self.attention](scores)

    def mixture(self, weights: Float[Array, "b k"]) -> Float[Array, "b d"]:
        """The mixture of codes."""
        mixed = weights @ self.codes[...]
        return mixed / weights.sum(-1, keepdims=True) if self.attention == "sigmoid" else mixed


@jax.custom_jvp
def sparsemax(z: Float[Array, "*b k"]) -> Float[Array, "*b k"]:
    r"""The nearest point of the simplex to each row (Martins and Astudillo 2016, algorithm 1).

    $p = \max(z - \tau, 0)$, where $\tau$ makes the sum 1. The gradient is centred on the support and 0 elsewhere.
    """
    ordered = -jnp.sort(-z, axis=-1)
    excess = jnp.cumsum(ordered, -1) - 1
    place = jnp.arange(1, z.shape[-1] + 1, dtype=z.dtype).reshape((1,) * (z.ndim - 1) + (-1,))
    support = (place * ordered > excess).sum(-1, keepdims=True)
    threshold = jnp.take_along_axis(excess, support - 1, -1) / support.astype(z.dtype)
    return jnp.maximum(z - threshold, 0)


@sparsemax.defjvp
def _sparsemax_jvp(primals: Any, tangents: Any) -> Any:
    p = sparsemax(*primals)
    support = (p > 0).astype(p.dtype)
    tangent = tangents[0] * support
    return p, tangent - support * tangent.sum(-1, keepdims=True) / support.sum(-1, keepdims=True)


@jax.custom_vjp
def largest_scores(queries: Float[Array, "b n d"], codes: Float[Array, "k d"]) -> Float[Array, "b k"]:
    """The largest inner product of the queries of an example with each code.

    There is no array of all B x N x K scores, which for a large codebook would be most of the memory of a step: the
    tokens go by a few at a time, and the gradient keeps only which token was the largest (the first of equals).
    """
    return _largest(queries, codes)[0]


def chunks(queries: Float[Array, "b n d"], codes: Float[Array, "k d"]) -> Float[Array, "c b s d"]:
    """Tokens in groups, filled up with the last, which as it comes later is never the first of equals."""
    b, n, d = queries.shape
    size = min(n, max(1, CHUNK // (b * len(codes))))
    count = -(-n // size)
    filled = jnp.pad(queries, ((0, 0), (0, count * size - n), (0, 0)), mode="edge")
    return jnp.moveaxis(filled.reshape(b, count, size, d), 1, 0)


def _largest(
    queries: Float[Array, "b n d"], codes: Float[Array, "k d"]
) -> tuple[Float[Array, "b k"], Int[Array, "b k"]]:
    """The largest scores and the tokens that have them."""

    def step(carry: Any, chunk: Any) -> Any:
        top, token, start = carry
        scores = jnp.einsum("bnd,kd->bnk", chunk, codes)
        found, place = scores.max(1), scores.argmax(1) + start
        return (jnp.maximum(top, found), jnp.where(found > top, place, token), start + chunk.shape[1]), None

    groups = chunks(queries, codes)
    shape = (len(queries), len(codes))
    zero = jnp.zeros((), jnp.argmax(jnp.zeros(1)).dtype)
    start = (jnp.full(shape, -jnp.inf, queries.dtype), jnp.zeros(shape, zero.dtype), zero)
    (top, token, _), _ = jax.lax.scan(step, start, groups)
    return top, token


def _largest_forward(queries: Any, codes: Any) -> Any:
    top, token = _largest(queries, codes)
    return top, (queries, codes, token)


def _largest_backward(residuals: Any, gradient: Float[Array, "b k"]) -> Any:
    queries, codes, token = residuals
    groups = chunks(queries, codes)
    count, b, size, d = groups.shape

    def step(d_codes: Any, group: Any) -> Any:
        chunk, start = group
        tokens = start + jnp.arange(size, dtype=token.dtype)
        d_scores = jnp.where(token[:, None] == tokens[None, :, None], gradient[:, None], 0)
        d_codes = d_codes + jnp.einsum("bnk,bnd->kd", d_scores, chunk)
        return d_codes, jnp.einsum("bnk,kd->bnd", d_scores, codes)

    starts = jnp.arange(count, dtype=token.dtype) * size
    d_codes, d_queries = jax.lax.scan(step, jnp.zeros_like(codes), (groups, starts))
    return jnp.moveaxis(d_queries, 0, 1).reshape(b, count * size, d)[:, : queries.shape[1]], d_codes


largest_scores.defvjp(_largest_forward, _largest_backward)

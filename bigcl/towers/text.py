"""Text transformer in the forms that CLIP (causal, pooled at the end token), SigLIP (bidirectional, pooled at the last
token) and BERT (bidirectional, norms after the branches) use."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from bigcl.towers import layers
from bigcl.towers.encoding import Encoding

VARIANTS: dict[str, tuple[int, int, int, int]] = {
    "S": (384, 12, 6, 1536),
    "B": (512, 12, 8, 2048),
    "L": (768, 12, 12, 3072),
    "H": (1024, 24, 16, 4096),
    "SigLIP-B": (768, 12, 12, 3072),
    "SigLIP-L": (1024, 24, 16, 4096),
    "SigLIP-So400m": (1152, 27, 16, 4304),
}
"""width, depth, heads, MLP width. B and L go with CLIP's image towers of that name, H with OpenCLIP's, SigLIP-* with
SigLIP's."""


class TextTransformer(nnx.Module):
    """Token ids `[B, N]` to an embedding `[B, D]` and tokens.

    vocab: size of the vocabulary; by default the tokenizer's.  length: tokens of the longest text.
    variant: sizes by name; `width`, `depth`, `heads`, `mlp_width` override it or replace it.
    causal: whether a token sees only those before it.
    pool: "eot" (the first occurrence of `eos_id`, by default of the largest id, CLIP's end token), "last" (position
        N - 1, SigLIP), "first", "mean", "map", or "coca" (a learned class token behind the text). Its mask is that of
        OpenCLIP's CoCa, with which published weights were trained: keys are masked one place late, so that the class
        token sees the first padding as well, and itself behind a text of full length alone.
    pad_id: this id is masked out of the attention and the pooling; None attends to padding as CLIP and SigLIP do.
    post_norm: norms stand after each residual sum, and the tower's own before the first block (BERT).
    matmul: "int8" or "fp8": products with the weights of the blocks in eight bits, an experiment (`towers/matmul.py`).
    attention: "cudnn": that of the blocks by cuDNN on GPUs, in half precision, an experiment (`layers.attend_cudnn`).
    embed_dim, projection_bias: a final linear layer; CLIP's has no bias, SigLIP's has one.
    """

    def __init__(
        self,
        *,
        vocab: int,
        length: int,
        variant: str | None = None,
        width: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        mlp_width: int | None = None,
        causal: bool = True,
        pool: Literal["eot", "last", "first", "mean", "map", "coca"] = "eot",
        pad_id: int | None = None,
        eos_id: int | None = None,
        positions: Literal["learned", "rotary"] = "learned",
        qk_norm: bool = False,
        gated: bool = False,
        post_norm: bool = False,
        activation: layers.Activation = "gelu_tanh",
        norm_eps: float = 1e-6,
        dropout: float = 0.0,
        embed_dim: int | None = None,
        projection_bias: bool = False,
        remat: str = layers.REMAT,
        scan: bool = True,
        matmul: layers.Matmul = "plain",
        attention: layers.Attending = "plain",
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        width, depth, heads, mlp_width = layers.resolve_sizes("text", VARIANTS, variant, width, depth, heads, mlp_width)
        self.vocab, self.length, self.causal, self.pool, self.pad_id, self.dtype = (
            vocab,
            length,
            causal,
            pool,
            pad_id,
            dtype,
        )
        self.head, self.post_norm, self.eos_id = width // heads, post_norm, eos_id
        if eos_id is not None and (pool != "eot" or not 0 <= eos_id < vocab):
            raise ValueError(
                f"text: eos_id {eos_id} with pool {pool!r} and {vocab} ids; pool 'eot' looks for one of them"
            )
        if pool == "coca" and pad_id is None:
            raise ValueError("text: pool 'coca' without pad_id, which its class token leaves out; set it")
        small = nnx.initializers.normal(0.01)
        self.embed = nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), (vocab, width)))
        places = length + (pool == "coca")
        self.position = nnx.Param(small(rngs.params(), (places, width))) if positions == "learned" else None
        self.cls = nnx.Param(small(rngs.params(), (1, width))) if pool == "coca" else None
        self.stack = layers.Stack(
            depth, width, heads, mlp_width, activation=activation, gated=gated, qk_norm=qk_norm,
            post_norm=post_norm, norm_eps=norm_eps, dropout=dropout, dtype=dtype, remat=remat, scan=scan,
            matmul=matmul, attention=attention, rngs=rngs,
        )  # fmt: skip
        self.norm = layers.Norm(width, eps=norm_eps)
        head = functools.partial(layers.AttentionPool, activation=activation, norm_eps=norm_eps, dtype=dtype, rngs=rngs)
        self.map = head(width, heads, mlp_width) if pool == "map" else None
        self.projection = (
            nnx.Linear(width, embed_dim, use_bias=projection_bias, dtype=dtype, rngs=rngs) if embed_dim else None
        )

    def __call__(
        self, text: Int[Array, "b n"], mask: Bool[Array, "b n"] | None = None, rng: Key[Array, "b"] | None = None
    ) -> Encoding:
        """`mask`: which tokens are real; by default those that are not `pad_id`."""
        n = text.shape[1]
        if n > self.length:
            raise ValueError(f"text: {n} tokens reached a tower of length {self.length}")
        if mask is None and self.pad_id is not None:
            mask = text != self.pad_id
        if self.cls is not None and mask is not None and self.pad_id is not None:
            text = jnp.where(mask, text, self.pad_id)  # the first masked place is seen, whatever lies there
        x, seen = self.embed[...].astype(self.dtype)[text], mask
        if self.cls is not None and mask is not None:
            last = jnp.broadcast_to(self.cls[...].astype(self.dtype)[None], (x.shape[0], 1, x.shape[2]))
            x, seen = jnp.concatenate([x, last], axis=1), jnp.pad(mask, ((0, 0), (1, 0)), constant_values=True)
            n += 1
        rotation = None
        if self.position is not None:
            x = x + self.position[:n].astype(self.dtype)[None]
        else:
            rotation = jnp.asarray(layers.rotation_table(np.arange(n)[:, None], self.head, theta=10_000.0))[None]
        attend = None if seen is None else seen[:, None, None]
        if self.causal:
            past = jnp.tril(jnp.ones((n, n), bool))[None, None]
            attend = past if attend is None else attend & past
        if self.post_norm:
            x = self.stack(self.norm(x), mask=attend, rotation=rotation, rng=rng)
        else:
            x = self.norm(self.stack(x, mask=attend, rotation=rotation, rng=rng))
        pooled = x[:, -1] if self.cls is not None else self.pooled(x, text, mask)
        tokens = x[:, : text.shape[1]]
        if self.projection is None:
            return Encoding(pooled, tokens, mask)
        return Encoding(self.projection(pooled), tokens, mask, pooled)

    def reads(self) -> jax.ShapeDtypeStruct:
        """One text."""
        return jax.ShapeDtypeStruct((self.length,), jnp.int32)

    def pooled(
        self, x: Float[Array, "b n w"], text: Int[Array, "b n"], mask: Bool[Array, "b n"] | None
    ) -> Float[Array, "b w"]:
        """One vector per text."""
        if self.map is not None:
            return self.map(x, mask)
        match self.pool:
            case "eot":
                end = (text if self.eos_id is None else text == self.eos_id).argmax(1)
                return jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]
            case "last":
                return x[:, -1]
            case "first":
                return x[:, 0]
            case _:
                return layers.masked_mean(x, mask)

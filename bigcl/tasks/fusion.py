"""A transformer over the tokens of several inputs, whose output is compared as one more input's would be."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from bigcl.registry import ConfigError, Part
from bigcl.tasks.joint import Joint
from bigcl.towers import layers


class FusionEncoder(nnx.Module):
    """The video-question transformer of Just Ask (Yang et al. 2021, section 4.1).

    The tokens of each input go through a linear layer, GELU and a norm, and get the embedding of their input and of
    their place in the joined sequence; after another norm a transformer with norms after its branches reads them, and
    its first token, through a linear layer, is the output.

    of: the inputs, in this order.  lengths: how many tokens each has at most.  inputs: the width of their tokens.
    width, depth, heads, mlp_width, dropout: of the transformer.  embed_dim: of the output.
    """

    def __init__(
        self,
        *,
        of: Sequence[str],
        lengths: Sequence[int],
        inputs: Sequence[int],
        width: int = 512,
        depth: int = 2,
        heads: int = 8,
        mlp_width: int = 2048,
        embed_dim: int = 512,
        dropout: float = 0.0,
        remat: str = "none",
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        if not len(of) == len(lengths) == len(inputs):
            raise ConfigError(f"task.fusion: {len(of)} inputs, {len(lengths)} lengths and {len(inputs)} widths")
        self.of, self.lengths, self.dropout = tuple(of), tuple(lengths), dropout
        self.maps = nnx.List(nnx.Linear(n, width, dtype=dtype, rngs=rngs) for n in inputs)
        self.norms = nnx.List(layers.Norm(width, eps=1e-6) for _ in inputs)
        normal = nnx.initializers.normal(0.02)
        self.position = nnx.Param(normal(rngs.params(), (sum(lengths), width)))
        self.kinds = nnx.Param(normal(rngs.params(), (len(inputs), width)))
        self.norm = layers.Norm(width, eps=1e-6)
        self.stack = layers.Stack(
            depth, width, heads, mlp_width, activation="gelu", gated=False, qk_norm=False, post_norm=True,
            norm_eps=1e-6, dropout=dropout, dtype=dtype, remat=remat, rngs=rngs,
        )  # fmt: skip
        self.projection = nnx.Linear(width, embed_dim, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        tokens: Sequence[Float[Array, "b _ _"]],
        masks: Sequence[Bool[Array, "b _"] | None],
        rng: Key[Array, "b"] | None = None,
    ) -> Float[Array, "b d"]:
        """masks: which tokens of each input are real, None for all."""
        joined, real, start = [], [], 0
        parts = zip(tokens, masks, self.maps, self.norms, self.lengths, self.kinds[...], strict=True)
        for x, mask, to_width, norm, length, kind in parts:
            x = norm(jax.nn.gelu(to_width(x), approximate=False))
            place = self.position[start : start + x.shape[1]] + kind[None]
            joined.append(x + place.astype(x.dtype)[None])
            real.append(jnp.ones(x.shape[:2], bool) if mask is None else mask)
            start += length
        x = layers.drop(self.norm(jnp.concatenate(joined, 1)), self.dropout, rng)
        return self.projection(self.stack(x, mask=jnp.concatenate(real, 1)[:, None, None], rng=rng)[:, 0])


class Fusion(Joint):
    """Towers, of which some are read together: the output `fused` is compared like an input (Just Ask, Yang et al.
    2021, where video and question together look for the answer).

    fusion: the transformer that reads their tokens, see `FusionEncoder`.
    towers, losses, normalize, init_scale, max_scale: as in `TwoTower`.
    """

    reader, output = "fusion", "fused"

    def __init__(
        self,
        *,
        towers: Mapping[str, Annotated[Part, "tower"] | str],
        fusion: Annotated[Part, FusionEncoder],
        losses: Sequence[Annotated[Part, "loss"]],
        normalize: bool = True,
        init_scale: float | None = None,
        max_scale: float | None = None,
        batch_size: int,
        steps: int | None = None,
        vocab: int | None = None,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        shared: dict[str, Any] = {"batch_size": batch_size, "steps": steps, "vocab": vocab, "dtype": dtype}
        shared |= {"normalize": normalize, "init_scale": init_scale, "max_scale": max_scale}
        super().__init__(towers=towers, losses=losses, **shared, rngs=rngs)
        self.fusion = FusionEncoder(**fusion, dtype=dtype, rngs=rngs)
        self.read_tokens()

"""Towers that look at the same thing, whose tokens are mixed and read together."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from bigcl.registry import ConfigError, Part
from bigcl.tasks.joint import Joint
from bigcl.towers import layers
from bigcl.towers.features import MixtureOfFeatures


class MixtureReader(nnx.Module):
    """Mixture of features (Tong et al. 2024, section 4), read by attention pooling and a linear map, which stand where
    the paper has a language model.

    of: the inputs, in this order.  inputs: the width of their tokens.
    mode, alpha, width: see `MixtureOfFeatures`.
    heads, mlp_width: of the pooling.  embed_dim: of the output.
    """

    def __init__(
        self,
        *,
        of: Sequence[str],
        inputs: Sequence[int],
        width: int,
        mode: Literal["interleaved", "additive"] = "interleaved",
        alpha: float = 0.5,
        heads: int = 8,
        mlp_width: int | None = None,
        embed_dim: int,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        if len(of) != len(inputs):
            raise ConfigError(f"task.mixture: {len(of)} inputs and {len(inputs)} widths")
        self.of = tuple(of)
        self.features = MixtureOfFeatures(inputs, width, mode=mode, alpha=alpha, dtype=dtype, rngs=rngs)
        self.norm = layers.Norm(width, eps=1e-6)
        self.pool = layers.AttentionPool(
            width, heads, mlp_width or 4 * width, activation="gelu_tanh", norm_eps=1e-6, dtype=dtype, rngs=rngs
        )
        self.projection = nnx.Linear(width, embed_dim, use_bias=False, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        tokens: Sequence[Float[Array, "b p _"]],
        masks: Sequence[Bool[Array, "b p"] | None],
        rng: Key[Array, "b"] | None = None,
    ) -> Float[Array, "b d"]:
        """Nothing here is random. Raises ConfigError for towers on different grids, and for tokens of which some are
        padding."""
        places = {name: x.shape[1] for name, x in zip(self.of, tokens, strict=True)}
        if len(set(places.values())) > 1:
            raise ConfigError(f"task.mixture.of: towers on one grid are mixed, and their tokens are {places}")
        if any(mask is not None for mask in masks):
            raise ConfigError("task.mixture.of: one of these towers pads its tokens, which cannot be mixed")
        return self.projection(self.pool(self.norm(self.features(*tokens))))


class MixedFeatures(Joint):
    """Towers, of which some look at the same picture: their tokens are mixed, and the output `mixed` is compared like
    an input (Tong et al. 2024, "Eyes Wide Shut? Exploring the Visual Shortcomings of Multimodal LLMs").

    The paper's towers are frozen: `optim.freeze`. A mixture of one tower is what it is compared with.

    mixture: what mixes and reads, see `MixtureReader`.
    towers, losses, init_scale, max_scale: as in `TwoTower`.
    """

    reader, output = "mixture", "mixed"

    def __init__(
        self,
        *,
        towers: Mapping[str, Annotated[Part, "tower"] | str],
        mixture: Annotated[Part, MixtureReader],
        losses: Sequence[Annotated[Part, "loss"]],
        init_scale: float | None = None,
        max_scale: float | None = None,
        batch_size: int,
        steps: int | None = None,
        vocab: int | None = None,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        shared: dict[str, Any] = {"batch_size": batch_size, "steps": steps, "vocab": vocab, "dtype": dtype}
        super().__init__(towers=towers, losses=losses, init_scale=init_scale, max_scale=max_scale, **shared, rngs=rngs)
        self.mixture = MixtureReader(**mixture, dtype=dtype, rngs=rngs)
        self.read_tokens()

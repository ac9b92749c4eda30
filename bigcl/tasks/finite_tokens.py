"""Towers whose tokens are pooled by one codebook that they share."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from bigcl.registry import ConfigError, Part
from bigcl.tasks.two_tower import TwoTower
from bigcl.towers.codebook import Codebook, QueryMap
from bigcl.towers.encoding import Encoding


class FiniteTokens(TwoTower):
    """FDT (Chen et al. 2023, "Revisiting Multimodal Representation in Contrastive Learning"): embeddings of all inputs
    are sparse mixtures of the same codes.

    The tokens of each tower go through a query map of its own to the shared codebook. What a tower itself has pooled is
    not used.

    codebook: see `Codebook`.
    towers, losses, init_scale, max_scale: as in `TwoTower`.
    """

    def __init__(
        self,
        *,
        towers: Mapping[str, Annotated[Part, "tower"] | str],
        codebook: Annotated[Part, Codebook],
        losses: Sequence[Annotated[Part, "loss"]] | None = None,
        init_scale: float | None = None,
        max_scale: float | None = None,
        batch_size: int,
        steps: int | None = None,
        vocab: int | None = None,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            towers=towers,
            losses=losses,
            init_scale=init_scale,
            max_scale=max_scale,
            batch_size=batch_size,
            steps=steps,
            vocab=vocab,
            dtype=dtype,
            rngs=rngs,
        )
        self.codebook = Codebook(**codebook, rngs=rngs)
        width = self.codebook.codes.shape[1]
        widths = {name: token_width(name, tower) for name, tower in self.towers.items()}
        self.queries = nnx.Dict({n: QueryMap(inputs, width, dtype=dtype, rngs=rngs) for n, inputs in widths.items()})

    def pooled(self, name: str, encoding: Encoding) -> Float[Array, "b d"]:
        assert encoding.tokens is not None
        return self.codebook(self.queries[self.inputs[name]](encoding.tokens), encoding.mask)


def token_width(name: str, tower: Any) -> int:
    """Width of a tower's tokens. Raises ConfigError for one that has none."""
    example = tower.reads()
    one = jax.ShapeDtypeStruct((1, *example.shape), example.dtype)
    tokens = nnx.eval_shape(lambda tower, x: tower(x).tokens, tower, one)
    if tokens is None:
        raise ConfigError(f"task.towers.{name}: a codebook pools tokens, and this tower gives none")
    return int(tokens.shape[-1])

"""Two towers or more, and a list of which pairs are contrasted: CLIP, SigLIP, ALIGN, LiT, CLIPPO from config alone."""

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Annotated

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from bigcl import registry
from bigcl.losses import l2_normalize
from bigcl.registry import ConfigError, Part
from bigcl.tasks.task import Batch, Metrics, Task
from bigcl.towers.layers import split_keys


class TwoTower(Task):
    """Towers whose embeddings are contrasted in pairs.

    towers: for each input its tower. The batch key of an input is its name (`<name>_mask`, where present, says which of
        its tokens are real). A string instead of a part names another input whose tower is shared (CLIPPO, Tschannen et
        al. 2023).
    losses: each a loss with `of`, the two inputs that it contrasts, and `weight` (default 1). Default: one `infonce` of
        the first two inputs.
    init_scale: start of the learned inverse temperature; None: 1 / 0.07 (CLIP), or 10 with a sigmoid loss (SigLIP).
    max_scale: the scale is clamped here after each step; None: 100 (CLIP), or no bound with a sigmoid loss (SigLIP).
    init_bias: start of the learned bias of sigmoid losses; None: -log(batch - 1), near SigLIP's -10 at its batch of
        32,768.
    """

    def __init__(
        self,
        *,
        towers: Mapping[str, Annotated[Part, "tower"] | str],
        losses: Sequence[Annotated[Part, "loss"]] | None = None,
        init_scale: float | None = None,
        max_scale: float | None = None,
        init_bias: float | None = None,
        batch_size: int,
        vocab: int | None = None,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        losses = [{"kind": "infonce", "of": list(towers)[:2]}] if losses is None else losses
        self.inputs = {name: part if isinstance(part, str) else name for name, part in towers.items()}
        for name, tower in self.inputs.items():
            if self.inputs.get(tower) != tower:
                raise ConfigError(
                    f"task.towers.{name}: shares the tower of {tower!r}, which has none; "
                    f"{registry.nearest(tower, towers)}"
                )
        self.towers = nnx.Dict(
            {
                n: registry.build("tower", p, vocab=vocab, dtype=dtype, rngs=rngs)
                for n, p in towers.items()
                if not isinstance(p, str)
            }
        )
        for name, tower in self.towers.items():
            if vocab is not None and getattr(tower, "vocab", vocab) < vocab:
                raise ConfigError(
                    f"task.towers.{name}.vocab: {tower.vocab} is smaller than the tokenizer's vocabulary of {vocab}; "
                    "leave it out"
                )
        self.losses = nnx.static(
            tuple((registry.bind("loss", part), *self.pair(i, part)) for i, part in enumerate(losses))
        )
        sigmoid = any(part["kind"] == "sigmoid" for part in losses)
        self.notes = []
        if init_scale is None:
            init_scale = 10.0 if sigmoid else 1 / 0.07
            self.notes.append(f"task.init_scale = {init_scale:.4g} ({'SigLIP' if sigmoid else 'CLIP'})")
        if init_bias is None and sigmoid:
            init_bias = -math.log(max(2, batch_size) - 1)
            self.notes.append(f"task.init_bias = {init_bias:.4g}, -log(batch - 1) at batch {batch_size}")
        if max_scale is None:
            max_scale = math.inf if sigmoid else 100.0
        self.max_log_scale = math.log(max_scale)
        self.log_scale = nnx.Param(jnp.asarray(math.log(init_scale), jnp.float32))
        self.bias = nnx.Param(jnp.asarray(init_bias, jnp.float32)) if sigmoid else None

    def pair(self, i: int, part: Part) -> tuple[tuple[str, str], float]:
        """The two inputs and the weight of a loss."""
        of = tuple(part.get("of", ()))
        for name in of:
            if name not in self.inputs:
                raise ConfigError(f"task.losses[{i}].of: unknown input {name!r}; {registry.nearest(name, self.inputs)}")
        if len(of) != 2:
            raise ConfigError(f"task.losses[{i}].of: expected two inputs, got {list(of)}")
        return (of[0], of[1]), float(part.get("weight", 1.0))

    def forward(self, batch: Batch, rng: Key[Array, "b"] | None) -> dict[str, Float[Array, "b d"]]:
        present = [n for n in self.inputs if n in batch]
        keys = dict.fromkeys(present) if rng is None else dict(zip(present, split_keys(rng, len(present)), strict=True))
        return {
            name: l2_normalize(
                self.towers[self.inputs[name]](batch[name], batch.get(f"{name}_mask"), keys[name]).embedding
            )
            for name in present
        }

    def objective(self, outputs: dict[str, Float[Array, "b d"]], batch: Batch) -> tuple[Float[Array, ""], Metrics]:
        del batch
        scale = jnp.exp(self.log_scale[...])
        extra = {} if self.bias is None else {"bias": self.bias[...]}
        total, metrics = jnp.zeros(()), {"logit_scale": scale, **extra}
        for loss, (a, b), weight in self.losses:
            takes_bias = "bias" in inspect.signature(loss).parameters
            value = loss(outputs[a], outputs[b], scale, **(extra if takes_bias else {}))
            total = total + weight * value
            metrics[f"loss/{a}_{b}"] = value
        return total, metrics

    def encode(self, batch: Batch) -> dict[str, Float[Array, "b d"]]:
        return self.forward(batch, None)

    def reads(self) -> dict[str, jax.ShapeDtypeStruct]:
        return {name: self.towers[tower].reads() for name, tower in self.inputs.items()}

    def after_update(self) -> None:
        self.log_scale[...] = jnp.minimum(self.log_scale[...], self.max_log_scale)

    def describe(self) -> list[str]:
        return list(self.notes)

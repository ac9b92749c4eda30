"""What tasks keep between steps beside parameters: sharded and saved like them, never trained."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from bigcl.losses import l2_normalize
from bigcl.registry import ConfigError


class Kept(nnx.Variable):
    """An array that a task keeps between steps and that no gradient is taken of."""


class Teacher(nnx.Module):
    """A copy of towers, and of the heads whose outputs of it are asked for, that is not trained.

    decay: the copy is the moving average of the towers over steps (mean teacher, Tarvainen and Valpola 2017; MoCo, He
        et al. 2020; BYOL, Grill et al. 2020); None: it stays what the towers were when the run began, so that a stage
        can learn from the one before (`checkpoint.init_from`).
    """

    def __init__(self, towers: nnx.Dict, heads: nnx.Dict, decay: float | None = None):
        if decay is not None and not 0 <= decay < 1:
            raise ConfigError(f"task.teacher.decay: expected 0 or more and less than 1, got {decay}")
        self.decay = decay
        self.towers, self.heads = nnx.clone(towers), nnx.clone(heads)
        for _, module in nnx.iter_modules(self):
            for name, value in vars(module).items():
                if isinstance(value, nnx.Param):
                    setattr(module, name, Kept(value.get_value()))

    def begin(self, towers: nnx.Dict, heads: nnx.Dict) -> None:
        """Becomes a copy of `towers`, and of those of `heads` that it has."""
        self.move(towers, heads, 0.0)

    def update(self, towers: nnx.Dict, heads: nnx.Dict) -> None:
        """Follows `towers` and `heads` by one step."""
        if self.decay is not None:
            self.move(towers, heads, self.decay)

    def move(self, towers: nnx.Dict, heads: nnx.Dict, decay: float) -> None:
        """decay x (the copy) + (1 - decay) x (what it is a copy of)."""
        for copy, original in ((self.towers, towers), (self.heads, heads)):
            own, theirs = nnx.state(copy, Kept), nnx.state(original, nnx.Param)
            flat = {path: variable.get_value() for path, variable in nnx.to_flat_state(theirs)}
            moved = [
                (path, variable.replace(jax.lax.stop_gradient(average(variable.get_value(), flat[path], decay))))
                for path, variable in nnx.to_flat_state(own)
            ]
            nnx.update(copy, nnx.from_flat_state(moved))


class Queue(nnx.Module):
    """Rows of past batches, first in, first out: more negatives than a batch has (MoCo, He et al. 2020, section 3.2).

    Random unit vectors at the start, as theirs. The rows of a global batch go in after the loss of its step, so that
    they are candidates from the next step on; the newest come first.

    of: outputs that are kept, each in a queue of its own.
    size: rows of each queue; a multiple of the devices that split a batch.  width: of a row.
    """

    def __init__(self, *, of: Sequence[str], size: int, width: int, rngs: nnx.Rngs):
        if size < 1 or width < 1:
            raise ConfigError(f"task.queues: expected a size and a width of 1 or more, got {size} and {width}")
        start = lambda: l2_normalize(jax.random.normal(rngs.params(), (size, width)))  # noqa: E731
        self.rows = nnx.Dict({name: Kept(start()) for name in of})

    def push(self, outputs: Mapping[str, Float[Array, "b d"]]) -> None:
        """Takes in a batch. Raises ConfigError for rows of another width."""
        for name, kept in self.rows.items():
            z, old = jax.lax.stop_gradient(outputs[name]), kept[...]
            if z.shape[1:] != old.shape[1:]:
                raise ConfigError(f"task.queues: {name!r} has rows of {z.shape[1:]}; expected width {old.shape[1]}")
            kept[...] = jnp.concatenate([z.astype(old.dtype), old])[: len(old)]


def average(old: Array, new: Array, decay: float) -> Array:
    """One step of a moving average; a plain copy where nothing of the old stays."""
    return decay * old + (1 - decay) * new if decay else new

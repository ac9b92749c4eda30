"""What tasks keep between steps beside parameters: sharded and saved like them, never trained."""

import jax
from flax import nnx

from bigcl.registry import ConfigError


class Kept(nnx.Variable):
    """An array that a task keeps between steps and that no gradient is taken of."""


class Teacher(nnx.Module):
    """A copy of towers that is not trained.

    decay: the copy is the moving average of the towers over steps (mean teacher, Tarvainen and Valpola 2017; MoCo, He
        et al. 2020; BYOL, Grill et al. 2020); None: it stays what the towers were when the run began, so that a stage
        can learn from the one before (`checkpoint.init_from`).
    """

    def __init__(self, towers: nnx.Dict, decay: float | None = None):
        if decay is not None and not 0 <= decay < 1:
            raise ConfigError(f"task.teacher.decay: expected 0 or more and less than 1, got {decay}")
        self.decay = decay
        self.towers = nnx.clone(towers)
        for _, module in nnx.iter_modules(self.towers):
            for name, value in vars(module).items():
                if isinstance(value, nnx.Param):
                    setattr(module, name, Kept(value.get_value()))

    def begin(self, towers: nnx.Dict) -> None:
        """Becomes a copy of `towers`."""
        self.move(towers, 0.0)

    def update(self, towers: nnx.Dict) -> None:
        """Follows `towers` by one step."""
        if self.decay is not None:
            self.move(towers, self.decay)

    def move(self, towers: nnx.Dict, decay: float) -> None:
        """decay x (the copy) + (1 - decay) x (towers)."""
        own, theirs = nnx.state(self.towers, Kept), nnx.state(towers, nnx.Param)
        flat = {path: variable.get_value() for path, variable in nnx.to_flat_state(theirs)}
        moved = [
            (path, variable.replace(jax.lax.stop_gradient(average(variable.get_value(), flat[path], decay))))
            for path, variable in nnx.to_flat_state(own)
        ]
        nnx.update(self.towers, nnx.from_flat_state(moved))


def average(old: jax.Array, new: jax.Array, decay: float) -> jax.Array:
    """One step of a moving average; a plain copy where nothing of the old stays."""
    return decay * old + (1 - decay) * new if decay else new

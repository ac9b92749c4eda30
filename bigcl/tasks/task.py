"""The contract between a task and the trainer."""

from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float, Key

Batch = dict[str, Array]
Metrics = dict[str, Float[Array, ""]]


class Task(nnx.Module):
    """What is trained: towers, losses, and the state they keep between steps.

    A task says how one example is encoded (`forward`) apart from how examples are compared (`objective`), so that the
    trainer can run the first in micro-batches without changing the second, which always sees the global batch.
    """

    def forward(self, batch: Batch, rng: Key[Array, "b"] | None) -> Any:
        """Per-example outputs, a pytree of arrays [B, ...]. rng: a key for each example, so that what is drawn does not
        depend on how a batch is cut or where its rows lie; None means evaluation."""
        raise NotImplementedError

    def objective(self, outputs: Any, batch: Batch) -> tuple[Float[Array, ""], Metrics]:
        """The loss over the global batch and named scalars for the log."""
        raise NotImplementedError

    def loss(self, batch: Batch, rng: Key[Array, "b"] | None) -> tuple[Float[Array, ""], Metrics]:
        """`objective(forward(batch))`."""
        return self.objective(self.forward(batch, rng), batch)

    def encode(self, batch: Batch) -> dict[str, Float[Array, "b d"]]:
        """L2-normalised float32 embeddings of the inputs that are in the batch, by input name."""
        raise NotImplementedError

    def reads(self) -> dict[str, jax.ShapeDtypeStruct]:
        """What a batch must hold of each example, by key; so that a step can be planned without data."""
        raise NotImplementedError

    def after_update(self) -> None:
        """Called after each optimizer step, inside the compiled step: clamps, moving averages, queues."""

    def describe(self) -> list[str]:
        """Lines for the start of the log: defaults that were derived, and from what."""
        return []

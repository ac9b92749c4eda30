"""The contract between a task and the trainer."""

import math
from typing import Any, NamedTuple

import jax
from flax import nnx
from jaxtyping import Array, Float, Int, Key

Batch = dict[str, Array]
Metrics = dict[str, Float[Array, ""] | Float[Array, "b"]]


class Moment(NamedTuple):
    """Where in a run a loss is computed.

    step: steps taken before this one.
    rng: for what the batch as a whole draws.
    """

    step: Int[Array, ""]
    rng: Key[Array, ""]


class Task(nnx.Module):
    """What is trained: towers, losses, and the state they keep between steps.

    A task says how one example is encoded (`forward`) apart from how examples are compared (`objective`), so that the
    trainer can run the first in micro-batches without changing the second, which always sees the global batch.

    max_scale: the bound of the metric `logit_scale`, an inverse temperature; there is an alarm when it is reached.
    """

    max_scale: float = math.inf

    def forward(self, batch: Batch, rng: Key[Array, "b"] | None) -> Any:
        """Per-example outputs, a pytree of arrays [B, ...]. rng: a key for each example, so that what is drawn does not
        depend on how a batch is cut or where its rows lie; None means evaluation."""
        raise NotImplementedError

    def objective(self, outputs: Any, batch: Batch, moment: Moment | None = None) -> tuple[Float[Array, ""], Metrics]:
        """The loss over the global batch and named scalars for the log. `loss_rows`, the share of each row in a loss
        that is a mean over rows, may be among them when the batch says of which `source` its rows are. Those called
        `.../accuracy` are shares of pairs that are told apart within the batch; there is an alarm when they fall to
        chance.

        moment: None means evaluation."""
        raise NotImplementedError

    def loss(self, batch: Batch, rng: Key[Array, "b"] | None) -> tuple[Float[Array, ""], Metrics]:
        """`objective(forward(batch))`."""
        return self.objective(self.forward(batch, rng), batch)

    def telemetry(self, outputs: Any) -> Metrics:
        """More scalars for the log, which cost too much for every step: asked for in the steps that are logged."""
        return {}

    def encode(self, batch: Batch) -> dict[str, Float[Array, "b d"]]:
        """L2-normalised float32 embeddings of the inputs that are in the batch, by input name."""
        raise NotImplementedError

    def reads(self) -> dict[str, jax.ShapeDtypeStruct]:
        """What a batch must hold of each example, by key; so that a step can be planned without data."""
        raise NotImplementedError

    def begin(self) -> None:
        """Called once, before the first step of a run, when the parameters are what the run starts from: copies of
        them."""

    def after_update(self) -> None:
        """Called after each optimizer step, inside the compiled step: clamps, moving averages, queues."""

    def describe(self) -> list[str]:
        """Lines for the start of the log: defaults that were derived, and from what."""
        return []

"""The state of a run, and the one compiled step that advances it."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Key, UInt

from bigcl.mesh import copy_axes
from bigcl.optim import ema_update
from bigcl.tasks.task import Batch, Metrics, Moment, Task

Arrays = dict[str, Array]
"""Arrays by their path in the task, such as "towers/image/embed/kernel"."""


class Skeleton:
    """A task without its arrays: splits a task into flat dictionaries and puts it together again.

    NNX modules are walked here, while tracing, and never between steps.
    """

    def __init__(self, task: Task):
        self.graphdef, *groups = nnx.split(task, nnx.Param, ...)
        self.groups = [[path for path, _ in nnx.to_flat_state(group)] for group in groups]

    def split(self, task: Task) -> tuple[Arrays, Arrays]:
        """Parameters, and all other arrays that the task keeps between steps."""
        _, *groups = nnx.split(task, nnx.Param, ...)
        flat = [{name(path): variable.get_value() for path, variable in nnx.to_flat_state(group)} for group in groups]
        return flat[0], flat[1]

    def merge(self, params: Arrays, extra: Arrays) -> Task:
        """The task that holds these arrays."""
        groups = [
            nnx.from_flat_state([(path, values[name(path)]) for path in paths])
            for paths, values in zip(self.groups, (params, extra), strict=True)
        ]
        return nnx.merge(self.graphdef, *groups)


def name(path: tuple[Any, ...]) -> str:
    """A path as it is written in patterns, logs and checkpoints."""
    return "/".join(map(str, path))


class TrainState(flax.struct.PyTreeNode):
    """Everything that a step reads and writes. All of it is saved, so that a resumed run goes on as if nothing had
    happened.

    key: raw data of the run's random key; a step's key is this one folded with the step.
    ema: moving average of the trained parameters, or None.
    skipped, skipped_in_a_row: steps that were not taken because loss or gradient was not finite.
    rewinds, passed_over: how often the run went back to before a loss spike, and how many batches it left out in all.
    """

    step: Int[Array, ""]
    params: Arrays
    extra: Arrays
    opt_state: Any
    ema: Arrays | None
    key: UInt[Array, "k"]
    skipped: Int[Array, ""]
    skipped_in_a_row: Int[Array, ""]
    rewinds: Int[Array, ""]
    passed_over: Int[Array, ""]


def init_state(
    task: Task, skeleton: Skeleton, tx: optax.GradientTransformation, trainable: frozenset[str], *, ema: bool, seed: int
) -> TrainState:
    """The state before the first step."""
    params, extra = skeleton.split(task)
    trained = {k: v for k, v in params.items() if k in trainable}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        extra=extra,
        opt_state=tx.init(trained),
        ema=jax.tree.map(jnp.copy, trained) if ema else None,
        key=jax.random.key_data(jax.random.key(seed)),
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_a_row=jnp.zeros((), jnp.int32),
        rewinds=jnp.zeros((), jnp.int32),
        passed_over=jnp.zeros((), jnp.int32),
    )


def make_step(
    skeleton: Skeleton,
    tx: optax.GradientTransformation,
    trainable: frozenset[str],
    ema: float | None,
    microbatch: int | None = None,
    logged: Callable[[Int[Array, ""]], Bool[Array, ""]] = lambda step: step > 0,
    prepare: Callable[[Batch, Key[Array, ""]], Batch] = lambda batch, rng: batch,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The training step: loss over the global batch, gradient of what is trained, update, moving average.

    A step whose loss or gradient is not finite leaves everything but the counters as it was.
    microbatch: rows that are encoded at a time, see `forward_in_pieces`.
    logged: whether the metrics of a step, counted from 1, are looked at; of others the task's telemetry is NaN.
    prepare: what is done to the global batch first, a function of it and of the step's key.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        rng = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        keys, draw = example_keys(rng, batch), jax.random.fold_in(rng, len(next(iter(batch.values()))))
        batch = prepare(batch, rng)
        trained = {k: v for k, v in state.params.items() if k in trainable}
        frozen = {k: v for k, v in state.params.items() if k not in trainable}

        def loss(trained: Arrays) -> tuple[Float[Array, ""], tuple[Metrics, Arrays, Any]]:
            params = {**frozen, **trained}
            outputs, extra = forward_in_pieces(skeleton, params, state.extra, batch, keys, microbatch)
            task = skeleton.merge(params, extra)
            value, metrics = task.objective(outputs, batch, Moment(state.step, draw))
            return value, (metrics, skeleton.split(task)[1], outputs)

        (value, (metrics, extra, outputs)), grads = jax.value_and_grad(loss, has_aux=True)(trained)
        task = skeleton.merge(state.params, state.extra)
        rare = lambda: {"param_norm": optax.tree.norm(trained), **task.telemetry(outputs)}  # noqa: E731
        telemetry = only_if(logged(state.step + 1), rare)
        grad_norm = optax.tree.norm(grads)
        updates, opt_state = tx.update(grads, state.opt_state, trained)
        task = skeleton.merge({**frozen, **optax.apply_updates(trained, updates)}, extra)
        task.after_update()
        params, extra = skeleton.split(task)
        average = (
            None if ema is None or state.ema is None else ema_update(state.ema, {k: params[k] for k in state.ema}, ema)
        )

        finite = jnp.isfinite(value) & jnp.isfinite(grad_norm)
        new = (params, extra, opt_state, average)
        old = (state.params, state.extra, state.opt_state, state.ema)
        params, extra, opt_state, average = jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
        skipped = 1 - finite.astype(jnp.int32)
        state = state.replace(
            step=state.step + 1,
            params=params,
            extra=extra,
            opt_state=opt_state,
            ema=average,
            skipped=state.skipped + skipped,
            skipped_in_a_row=(state.skipped_in_a_row + 1) * skipped,
        )
        counts = {"skipped_steps": state.skipped, "skipped_in_a_row": state.skipped_in_a_row}
        return state, {"loss": value, "grad_norm": grad_norm, **metrics, **telemetry, **counts}

    return step


def only_if(wanted: Bool[Array, ""], function: Callable[[], Metrics]) -> Metrics:
    """What `function` gives if it is wanted, else NaN, which costs nothing."""
    shapes = jax.eval_shape(function)
    return jax.lax.cond(wanted, function, lambda: jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), shapes))


def example_keys(rng: Key[Array, ""], batch: Batch) -> Key[Array, "b"]:
    """A key for each example of a batch."""
    return jax.vmap(jax.random.fold_in, (None, 0))(rng, jnp.arange(len(next(iter(batch.values())))))


def forward_in_pieces(
    skeleton: Skeleton, params: Arrays, extra: Arrays, batch: Batch, keys: Key[Array, "b"], rows: int | None
) -> tuple[Any, Arrays]:
    """`Task.forward` of the whole batch, `rows` at a time (None: all at once), and what the task keeps.

    The loss still sees every row, so value and gradient are those of the whole batch; only the activations of one piece
    exist at a time, for each piece is computed again when its gradient is (GradCache, Gao et al. 2021, as a
    rematerialised loop). An example has its own random key, so the draws are those of the batch in one piece. A piece
    takes rows from every device alike, and copies of the model sum their gradients over pieces before they exchange
    them, unless the task keeps something between pieces, which has to be the same on all copies. Over `fsdp`, where no
    device has all weights, every piece gathers them and reduces their gradients.
    """
    inputs = (batch, keys)
    pieces = 1 if rows is None else len(keys) // rows

    def forward(params: Arrays, extra: Arrays, inputs: Any) -> tuple[Any, Arrays]:
        task = skeleton.merge(params, extra)
        outputs = task.forward(*inputs)
        return outputs, skeleton.split(task)[1]

    def in_pieces(params: Arrays, extra: Arrays, inputs: Any) -> tuple[Any, Arrays]:
        def piece(extra: Arrays, inputs: Any) -> tuple[Arrays, Any]:
            return forward(params, extra, inputs)[::-1]

        size = len(inputs[1])
        cut = jax.tree.map(lambda v: jnp.swapaxes(v.reshape(size // pieces, pieces, *v.shape[1:]), 0, 1), inputs)
        extra, outputs = jax.lax.scan(jax.checkpoint(piece), extra, cut)
        return jax.tree.map(lambda v: jnp.swapaxes(v, 0, 1).reshape(size, *v.shape[2:]), outputs), extra

    if pieces == 1:
        return forward(params, extra, inputs)
    copies = copy_axes()
    if not copies or changes(lambda extra: forward(params, extra, inputs)[1], extra):
        return in_pieces(params, extra, inputs)
    whole, split = PartitionSpec(), PartitionSpec(copies)
    on_copies = jax.shard_map(
        lambda *arguments: in_pieces(*arguments)[0],
        axis_names=set(copies),
        in_specs=(whole, whole, split),
        out_specs=split,
        check_vma=False,
    )
    return on_copies(params, extra, inputs), extra


def changes(function: Callable[[Arrays], Arrays], arrays: Arrays) -> bool:
    """Whether a function puts anything else in the place of any of the arrays."""
    new: Arrays = {}

    def probe(arrays: Arrays) -> None:
        new.update({k: v for k, v in function(arrays).items() if v is not arrays[k]})

    jax.eval_shape(probe, arrays)
    return bool(new)

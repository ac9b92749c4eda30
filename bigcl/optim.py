"""From the config section `optim` to one optax transformation; all that hangs on a path is decided once, at the start.

Gradients of what is trained are clipped by their global norm, turned into a direction (`optimizers`), weight decay is
added, and the sum is multiplied by the path's own factor and by -lr(step).
"""

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from bigcl import optimizers, registry, rules, schedules
from bigcl.registry import ConfigError, Part

UNDECAYED = optimizers.EMBEDDINGS - {"embed"}
STEM = ("embed", "position", "cls", "registers", "pre_norm")
"""What lies before the first block of a tower."""


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """What a run needs to know about its optimizer.

    tx: works on all parameters or on the trained ones only, nested or as a flat dictionary by path. Frozen parameters
        get zero updates and have no state. It computes in float32 at least, whatever the dtype of the parameters, and
        its state is keyed by path.
    schedule: step to learning rate.
    trainable: paths of the trained parameters.
    notes: lines for the start of the log: what is trained, and which defaults were derived from what.
    """

    tx: optax.GradientTransformation
    schedule: schedules.Schedule
    trainable: frozenset[str]
    notes: tuple[str, ...]


def make_optimizer(
    params: Mapping[str, Any],
    *,
    steps: int,
    batch_size: int,
    lr: float,
    optimizer: Annotated[Part, "optimizer"] = {"kind": "adamw"},  # noqa: B006
    schedule: Annotated[Part, "schedule"] = {"kind": "cosine"},  # noqa: B006
    weight_decay: float | rules.Rules = 0.0,
    lr_mults: rules.Rules | None = None,
    freeze: Sequence[str] = (),
    layer_decay: float | None = None,
    clip_norm: float | None = 1.0,
) -> Optimizer:
    """The optimizer of a run.

    params: the parameters or their shapes, nested or by path.
    steps, batch_size: of the run.
    lr: the peak learning rate.
    weight_decay: decoupled and multiplied by the learning rate (the convention of PyTorch and optax; big_vision and
        SigLIP multiply by the schedule alone: their 1e-4 at lr 1e-3 is 0.1 here). A number holds for matrices, not for
        biases, norms, position and class embeddings, scalars. A list of rules gives the number for every path.
    lr_mults: rules for a factor on the learning rate. freeze: patterns of parameters that are not trained.
    layer_decay: a further factor, layer_decay^(depth - i) for block i = 0, ..., depth - 1, layer_decay^(depth + 1) for
        embeddings, 1 for what follows the blocks (BEiT, Bao et al. 2022; MAE, He et al. 2022).
    clip_norm: bound on the L2 norm of the gradient of all trained parameters together.
    """
    leaves = rules.flatten(params)
    frozen = rules.match([*((pattern, True) for pattern in freeze), (".*", False)], leaves, what="optim.freeze")
    trainable = frozenset(path for path, stays in frozen.items() if not stays)
    if not trainable:
        raise ConfigError("optim.freeze: nothing is left to train")
    multipliers = learning_rates(leaves, lr_mults, layer_decay)
    decay = decay_rates(leaves, weight_decay)
    relative = registry.build("schedule", schedule, steps=steps)
    inner = optax.chain(
        *([] if clip_norm is None else [optax.clip_by_global_norm(clip_norm)]),
        registry.build("optimizer", optimizer, batch_size=batch_size),
        optax.stateless(
            lambda updates, params: {k: u + decay[k] * params[k] if decay[k] else u for k, u in updates.items()}
        ),
        optax.stateless(
            lambda updates, params: {k: u * jnp.asarray(multipliers[k], u.dtype) for k, u in updates.items()}
        ),
        optax.scale_by_schedule(lambda step: -lr * relative(step)),
    )
    return Optimizer(
        tx=only(trainable, inner),
        schedule=lambda step: lr * relative(step),
        trainable=trainable,
        notes=(*derived(optimizer, schedule, steps, batch_size), *summary(leaves, trainable, decay)),
    )


def only(trainable: frozenset[str], inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Runs `inner` on the trainable leaves, as a flat dictionary in float32 at least; others get zero updates."""

    def select(tree: Any) -> dict[str, Array]:
        leaves = {path: x for path, x in rules.flatten(tree).items() if path in trainable}
        return {path: x.astype(jnp.float32) if x.dtype.itemsize < 4 else x for path, x in leaves.items()}

    def init(params: Any) -> Any:
        return inner.init(select(params))

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):  # optax mixes a bfloat16 momentum with float32 gradients on purpose
            updates, state = inner.update(select(grads), state, select(params))

        def result(path: str, g: Array) -> Array:
            return updates[path].astype(g.dtype) if path in updates else jnp.zeros_like(g)

        return rules.map_with_path(result, grads), state

    return optax.GradientTransformation(init, update)


def ema_update(ema: Any, params: Any, decay: float | Float[Array, ""]) -> Any:
    """One step of a moving average: decay * ema + (1 - decay) * params, leaf by leaf, in the dtype of `ema`."""
    return jax.tree.map(lambda e, p: (decay * e + (1 - decay) * p.astype(e.dtype)).astype(e.dtype), ema, params)


def decay_rates(leaves: Mapping[str, Any], weight_decay: float | rules.Rules) -> dict[str, float]:
    """Weight decay by path."""
    if isinstance(weight_decay, (int, float)):
        return {path: float(weight_decay) * decays(path, len(x.shape)) for path, x in leaves.items()}
    chosen = rules.match(weight_decay, leaves, what="optim.weight_decay")
    return {path: number(value, "optim.weight_decay") for path, value in chosen.items()}


def decays(path: str, ndim: int) -> bool:
    """Whether weight decay applies by default: two dimensions or more, the axis of stacked layers not counted, and by
    its name neither bias nor norm scale nor position or class embedding."""
    name = path.split("/")[-1]
    return ndim - stacked(path) >= 2 and name not in UNDECAYED and not name.endswith(("bias", "scale"))


def learning_rates(
    leaves: Mapping[str, Any], lr_mults: rules.Rules | None, layer_decay: float | None
) -> dict[str, Any]:
    """Factor on the learning rate by path: a number, or an array that broadcasts against a stacked leaf."""
    chosen = dict.fromkeys(leaves, 1.0) if lr_mults is None else rules.match(lr_mults, leaves, what="optim.lr_mults")
    factors = {path: number(value, "optim.lr_mults") for path, value in chosen.items()}
    if layer_decay is None:
        return factors
    depths = {tower(path): x.shape[0] for path, x in leaves.items() if stacked(path)}
    if not depths:
        raise ConfigError(
            "optim.layer_decay: no parameter lies under 'blocks', so there are no layers to tell apart; leave it out"
        )
    return {
        path: factors[path] * layer_factor(path, x.shape, depths.get(tower(path)), layer_decay)
        for path, x in leaves.items()
    }


def layer_factor(path: str, shape: tuple[int, ...], depth: int | None, decay: float) -> Any:
    """The factor of layer-wise decay for a leaf of a tower with `depth` blocks (None: with none)."""
    if depth is None:
        return 1.0
    if stacked(path):
        return (decay ** np.arange(depth, 0, -1.0)).reshape(depth, *(1,) * (len(shape) - 1))
    return decay ** (depth + 1) if path.removeprefix(tower(path) + "/").split("/")[0] in STEM else 1.0


def stacked(path: str) -> bool:
    """Whether the leading axis of this leaf counts layers."""
    return "blocks" in path.split("/")


def tower(path: str) -> str:
    """The tower that a path lies in: "towers/image"."""
    return "/".join(path.split("/")[:2])


def number(value: Any, what: str) -> float:
    """A rule's value as a float."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{what}: expected a number for each pattern, got {value!r}")
    return float(value)


def derived(optimizer: Part, schedule: Part, steps: int, batch_size: int) -> list[str]:
    """The defaults that this run's size decided."""
    lines = []
    if optimizer.get("b2") is None and takes("optimizer", optimizer, "batch_size"):
        rule = "0.999 below a batch of 4096, 0.98 to 16384, 0.95 above"
        lines.append(f"optim.optimizer.b2 = {optimizers.default_b2(batch_size)} ({rule}; this one is {batch_size})")
    if schedule.get("warmup") is None and takes("schedule", schedule, "warmup"):
        lines.append(
            f"optim.schedule.warmup = {schedules.default_warmup(steps)} steps (a tenth of {steps}, 10000 at most)"
        )
    return lines


def takes(table: str, part: Part, argument: str) -> bool:
    """Whether the constructor of a part has this argument."""
    return argument in inspect.signature(registry.constructor(table, part["kind"])).parameters


def summary(leaves: Mapping[str, Any], trainable: frozenset[str], decay: Mapping[str, float]) -> list[str]:
    """How much is trained and decayed."""

    def count(keep: Callable[[str], Any]) -> str:
        return f"{sum(math.prod(x.shape) for path, x in leaves.items() if keep(path)):,}"

    trained = f"optim: {count(trainable.__contains__)} of {count(lambda path: True)} parameters trained"
    return [f"{trained}, {count(lambda path: path in trainable and decay[path])} with weight decay"]

"""What to change so that a step fits, and which settings are best."""

import copy
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from bigcl.mesh import axis_sizes, by_slice
from bigcl.planning.planner import Plan, make_plan, settings
from bigcl.registry import ConfigError

Change = tuple[str, Any]
"""A key of the config and its new value."""

REMAT = ("none", "dots_with_no_batch_dims_saveable", "nothing_saveable")
"""Policies from the one that keeps everything to the one that computes everything again."""

PIECES = tuple(2**n for n in range(11))
"""How many micro-batches are tried, from the whole batch to 1,024."""

LARGE = 1_000_000_000
"""Parameters from which tensor parallelism over four devices is tried."""


@dataclasses.dataclass(frozen=True)
class Option:
    """Settings that were planned."""

    changes: Sequence[Change]
    plan: Plan

    def as_json(self) -> dict[str, Any]:
        """As plain data."""
        return {"changes": dict(self.changes), "plan": self.plan.as_json()}


def with_changes(config: Mapping[str, Any], changes: Sequence[Change]) -> dict[str, Any]:
    """The config with some keys, written with dots, set anew."""
    result = copy.deepcopy(dict(config))
    for key, value in changes:
        *path, last = key.split(".")
        section = result
        for name in path:
            section = section[name]
        section[last] = value
    return result


def remat(config: Mapping[str, Any], policy: str) -> list[Change]:
    """Sets the policy of every tower that has one."""
    return [(f"task.towers.{name}.remat", policy) for name in settings(config)["remat"]]


def meshes(config: Mapping[str, Any], devices: int, slices: int, parameters: int = 0) -> list[list[Change]]:
    """The mesh as it is; parameters sharded over all devices of a slice, or over 16 or 8 of them; and heads and hidden
    units over two of them as well, or over four for large models."""
    inside, base = devices // slices, [("mesh.replica", slices), ("mesh.data", -1)]
    shapes = [(inside, 1), (16, 1), (8, 1), (inside // 2, 2), *([(inside // 4, 4)] if parameters >= LARGE else [])]
    shapes = [s for s in dict.fromkeys(shapes) if math.prod(s) > 1 and inside % math.prod(s) == 0]
    candidates = [[*base, ("mesh.fsdp", fsdp), ("mesh.tensor", tensor)] for fsdp, tensor in shapes]
    return [[], *(c for c in candidates if with_changes(config, c)["mesh"] != config["mesh"])]


def microbatches(config: Mapping[str, Any], devices: int, slices: int) -> list[list[Change]]:
    """From the whole batch to smaller and smaller micro-batches, as long as all devices get rows; nothing where it is
    what the config says."""
    batch, shards = config["train"]["batch"], devices // axis_sizes(config["mesh"], devices, slices)["tensor"]
    current = config["train"]["microbatch"] or batch
    sizes = {batch, current, *(batch // n for n in PIECES if batch % (n * shards) == 0)}
    values = [(rows, None if rows == batch else rows) for rows in sorted(sizes, reverse=True)]
    return [[] if rows == current else [("train.microbatch", value)] for rows, value in values]


def smaller(config: Mapping[str, Any], devices: int, slices: int) -> list[list[Change]]:
    """The micro-batches below that of the config."""
    current = config["train"]["microbatch"] or config["train"]["batch"]
    return [c for c in microbatches(config, devices, slices) if c and (c[0][1] or math.inf) < current]


def ways_to_fit(
    plan: Plan, config: Mapping[str, Any], devices: int, slices: int
) -> Iterator[tuple[list[Change], list[list[Change]]]]:
    """Changes that may make a step fit, the fewest first, and among them those that cost least: recomputation,
    parameters sharded, micro-batches. Each with the micro-batches to choose from ([[]]: as it is)."""
    again = remat(config, REMAT[-1]) if set(plan.settings["remat"].values()) - {REMAT[-1]} else []
    everything = devices // slices
    shard = next((m for m in meshes(config, devices, slices) if dict(m).get("mesh.fsdp") == everything), [])
    too_many = (plan.memory["arguments"] or 0) > (plan.memory["limit"] or 0)
    kinds = [kind for kind, there in (("again", again), ("shard", shard), ("cut", True)) if there]
    for count in range(1, len(kinds) + 1):
        for chosen in itertools.combinations(kinds, count):
            if too_many and shard and "shard" not in chosen:
                continue  # its arguments alone are more than there is
            changes = [*(again if "again" in chosen else []), *(shard if "shard" in chosen else [])]
            yield changes, smaller(with_changes(config, changes), devices, slices) if "cut" in chosen else [[]]


def find_fit(
    plan: Plan, config: Mapping[str, Any], devices: Sequence[jax.Device], say: Callable[[str], None]
) -> Option | None:
    """The first change that makes the step fit, compiled and so known; None where none of them does."""
    slices = plan.settings["mesh"]["replica"]
    for changes, sizes in ways_to_fit(plan, config, len(devices), slices):
        found = first_that_fits(config, [[*changes, *size] for size in sizes], devices, say)
        if found is not None:
            return found
    return None


def first_that_fits(
    config: Mapping[str, Any],
    ordered: Sequence[Sequence[Change]],
    devices: Sequence[jax.Device],
    say: Callable[[str], None],
) -> Option | None:
    """The first that fits, of changes each of which takes less memory than the one before; by bisection."""
    low, high, best = 0, len(ordered), None
    while low < high:
        middle = (low + high) // 2
        option = try_option(config, ordered[middle], devices, say)
        if option is not None and option.plan.fits:
            best, high = option, middle
        else:
            low = middle + 1
    return best


def try_option(
    config: Mapping[str, Any], changes: Sequence[Change], devices: Sequence[jax.Device], say: Callable[[str], None]
) -> Option | None:
    """Plans the config with some changes; None, which is said, where they do not go with its batch or devices, and
    where the compiler fails."""
    try:
        plan = make_plan(with_changes(config, changes), devices)
    except (ConfigError, RuntimeError) as error:  # of XLA's failures, RuntimeError is the base
        say(f"  {written(changes)}: {str(error).partition(chr(10))[0]}")
        return None
    say(f"  {written(changes)}: {'fits' if plan.fits else 'does not fit'}")
    return Option(changes, plan)


def search(
    config: Mapping[str, Any], devices: Sequence[jax.Device], parameters: int, say: Callable[[str], None]
) -> list[Option]:
    """Mesh shapes and remat policies, each with the largest micro-batch that fits; those with the lowest bound of the
    step time first. parameters: of the model."""
    slices = len(by_slice(devices))
    found = []
    for mesh in meshes(config, len(devices), slices, parameters):
        for policy in REMAT if settings(config)["remat"] else (None,):
            base = [*mesh, *(remat(config, policy) if policy else [])]
            whole, *parts = microbatches(with_changes(config, mesh), len(devices), slices)
            option = first_that_fits(config, [[*base, *whole]], devices, say) or first_that_fits(
                config, [[*base, *part] for part in parts], devices, say
            )
            if option is not None:
                found.append(option)
    return sorted(found, key=lambda o: (o.plan.bound or ("", 0.0))[1])


def written(changes: Sequence[Change]) -> str:
    """Changes as flags of a command."""
    return " ".join(f"--config.{key}={value}" for key, value in changes) or "as it is"

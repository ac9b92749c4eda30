"""What to change so that a step fits, and which settings are best."""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from bigcl.planning.planner import Plan, make_plan, settings
from bigcl.registry import ConfigError

Change = tuple[str, Any]
"""A key of the config and its new value."""

REMAT = ("none", "dots_with_no_batch_dims_saveable", "nothing_saveable")
"""Policies from the one that keeps everything to the one that computes everything again."""

PIECES = (2, 4, 8, 16, 32)
"""How many micro-batches are tried."""


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


def meshes(config: Mapping[str, Any], devices: int, slices: int) -> list[list[Change]]:
    """The mesh as it is; parameters sharded over all devices of a slice; and heads and hidden units over two of them as
    well."""
    inside, base = devices // slices, [("mesh.replica", slices), ("mesh.data", -1)]
    candidates = [[*base, ("mesh.fsdp", inside // n), ("mesh.tensor", n)] for n in (1, 2) if inside % n == 0]
    return [[], *(c for c in candidates if with_changes(config, c)["mesh"] != config["mesh"])]


def microbatches(config: Mapping[str, Any]) -> list[list[Change]]:
    """Smaller and smaller micro-batches."""
    rows = config["train"]["microbatch"] or config["train"]["batch"]
    return [[("train.microbatch", rows // n)] for n in PIECES if rows % n == 0]


def changes_to_fit(plan: Plan, config: Mapping[str, Any], devices: int, slices: int) -> Iterator[list[Change]]:
    """Changes that may make a step fit, those that cost least first: recomputation, parameters sharded, both, and then
    micro-batches on top."""
    again = remat(config, REMAT[-1]) if set(plan.settings["remat"].values()) - {REMAT[-1]} else []
    shard = next((m for m in meshes(config, devices, slices) if dict(m).get("mesh.tensor") == 1), [])
    bases = [b for b in (again, shard, [*again, *shard] if again and shard else []) if b]
    if (plan.memory["arguments"] or 0) > (plan.memory["limit"] or 0):
        bases = [b for b in bases if not shard or set(shard) <= set(b)]
    yield from bases
    yield from ([*again, *shard, *pieces] for pieces in microbatches(config))


def find_fit(
    plan: Plan, config: Mapping[str, Any], devices: Sequence[jax.Device], say: Callable[[str], None]
) -> Option | None:
    """The first change that makes the step fit, compiled and so known; None where none of them does."""
    slices = plan.settings["mesh"]["replica"]
    for changes in changes_to_fit(plan, config, len(devices), slices):
        option = try_option(config, changes, devices, say)
        if option is not None and option.plan.fits:
            return option
    return None


def try_option(
    config: Mapping[str, Any], changes: Sequence[Change], devices: Sequence[jax.Device], say: Callable[[str], None]
) -> Option | None:
    """Plans the config with some changes; None where they do not go with its batch or devices."""
    try:
        plan = make_plan(with_changes(config, changes), devices)
    except ConfigError as error:
        say(f"  {written(changes)}: {error}")
        return None
    say(f"  {written(changes)}: {'fits' if plan.fits else 'does not fit'}")
    return Option(changes, plan)


def search(config: Mapping[str, Any], devices: Sequence[jax.Device], say: Callable[[str], None]) -> list[Option]:
    """Mesh shapes and remat policies, each with the largest micro-batch that fits; those with the lowest bound of the
    step time first."""
    slices = len({getattr(d, "slice_index", 0) for d in devices})
    found = []
    for mesh in meshes(config, len(devices), slices):
        for policy in REMAT if settings(config)["remat"] else (None,):
            base = [*mesh, *(remat(config, policy) if policy else [])]
            for pieces in ([], *microbatches(config)):
                option = try_option(config, [*base, *pieces], devices, say)
                if option is not None and option.plan.fits:
                    found.append(option)
                    break
    return sorted(found, key=lambda o: (o.plan.bound or ("", 0.0))[1])


def written(changes: Sequence[Change]) -> str:
    """Changes as flags of a command."""
    return " ".join(f"--config.{key}={value}" for key, value in changes) or "as it is"

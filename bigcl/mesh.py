"""The device mesh, and where arrays lie on it.

Axes, from slow links to fast ones: `replica` (copies over a slow network), `data` (copies), `fsdp` (parameters
sharded), `tensor` (layers sharded). A batch is split over the first three; so is every contrastive loss.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from bigcl import rules
from bigcl.registry import ConfigError
from bigcl.rules import Rules

AXES = ("replica", "data", "fsdp", "tensor")
BATCH_AXES = ("replica", "data", "fsdp")

Rule = str | Sequence[str | None]

TENSOR_RULES: dict[str, tuple[str | None, ...]] = {
    r".*/qkv": (None, None, "tensor", None),
    r".*/qkv_bias": (None, "tensor", None),
    r".*/attention/out": ("tensor", None, None),
    r".*/mlp/(up|gate)/kernel": (None, "tensor"),
    r".*/mlp/(up|gate)/bias": ("tensor",),
    r".*/mlp/down/kernel": ("tensor", None),
}
"""Heads and hidden units over `tensor` (Megatron, Shoeybi et al. 2019), by trailing dimensions; stacked layers put one
more in front."""


def make_mesh(
    *,
    replica: int | None = None,
    data: int = -1,
    fsdp: int = 1,
    tensor: int = 1,
    rules: Rules | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """The mesh of all devices; one axis may be -1, which takes what is left.

    replica: None: one for each slice of a TPU cluster of several, which a slow network joins, else 1.
    rules: read by `place`; accepted here so that the section `mesh` of a config is one call.
    devices: others than all devices of this run, such as those of a topology to plan for.
    """
    del rules
    devices = jax.devices() if devices is None else devices
    slices = by_slice(devices)
    asked = {"replica": replica, "data": data, "fsdp": fsdp, "tensor": tensor}
    first, *others = axis_sizes(asked, len(devices), len(slices)).values()
    within = (first // len(slices), *others)
    grids = [  # as the links of a slice lie; `jax.make_mesh` takes hosts of GPUs for slices, and no more than one
        mesh_utils.create_device_mesh(within, s, allow_split_physical_axes=True) for s in slices
    ]
    return Mesh(np.concatenate(grids), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def axis_sizes(asked: Mapping[str, Any], count: int, slices: int) -> dict[str, int]:
    """The size of each axis of a mesh of `count` devices in so many slices, of the sizes that `make_mesh` is asked for.

    Raises ConfigError for sizes that do not fit.
    """
    sizes = {a: asked[a] for a in AXES}
    sizes["replica"] = slices if sizes["replica"] is None else sizes["replica"]
    free = [a for a, n in sizes.items() if n == -1]
    fixed = int(np.prod([n for n in sizes.values() if n != -1]))
    if len(free) > 1 or fixed < 1 or count % fixed or (not free and fixed != count):
        raise ConfigError(
            f"mesh: {sizes} does not fit {count} devices; "
            "make one axis -1, or the product equal to the number of devices"
        )
    sizes = {a: count // fixed if n == -1 else n for a, n in sizes.items()}
    if sizes["replica"] % slices:
        raise ConfigError(f"mesh.replica: {sizes['replica']} is not a multiple of the {slices} slices of this cluster")
    return sizes


def by_slice(devices: Sequence[jax.Device]) -> list[list[jax.Device]]:
    """The devices of each slice of a TPU cluster, which has fast links inside; anything else is one slice, in which the
    devices of a host, to which JAX gives the index of a slice, are neighbours."""

    def index(device: jax.Device) -> int:
        return getattr(device, "slice_index", None) or 0

    groups = itertools.groupby(sorted(devices, key=index), lambda d: index(d) if d.platform == "tpu" else 0)
    return [list(group) for _, group in groups]


def batch_axes(mesh: Mesh | AbstractMesh) -> tuple[str, ...]:
    """Those of its axes that split the batch, in its own order, as collectives want them; a mesh of one's own need not
    have them all."""
    return tuple(a for a in mesh.axis_names if a in BATCH_AXES)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over all axes that split the batch."""
    return NamedSharding(mesh, PartitionSpec(batch_axes(mesh)))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def constrain_batch(x: Array) -> Array:
    """Keeps activations sharded by rows and nothing else, inside a computation that runs under `jax.set_mesh`.

    Without it the partitioner may follow the parameters, which are sharded over an axis of the batch, and gather
    activations instead of weights.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(a for a in batch_axes(mesh) if a not in mesh.manual_axes)
    if not axes:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(axes, *(PartitionSpec.UNCONSTRAINED,) * (x.ndim - 1)))


def copy_axes() -> tuple[str, ...]:
    """The axes, of the mesh in context, over which parameters are copied and only the batch is split."""
    mesh = jax.sharding.get_abstract_mesh()
    return tuple(a for a in ("replica", "data") if mesh.shape.get(a, 1) > 1)


def place(
    shapes: Mapping[str, Array | jax.ShapeDtypeStruct], mesh: Mesh, placement: Rules | None = None
) -> dict[str, NamedSharding]:
    """Where each parameter lies.

    placement: ordered (regex, rule), first match wins; a rule is "replicate", "fsdp" (the largest divisible dimension
        over that axis), or one axis name or None for each dimension. None: heads and hidden units over `tensor` where
        that axis is larger than 1, all else "fsdp".
    """
    if placement is None:
        return {path: NamedSharding(mesh, default_spec(path, x.shape, mesh)) for path, x in shapes.items()}
    chosen = rules.match(placement, list(shapes), what="mesh.rules")
    return {path: NamedSharding(mesh, spec(path, x.shape, chosen[path], mesh)) for path, x in shapes.items()}


def default_spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The rule for a parameter that no list of the config speaks of."""
    axes: list[str | None] = [None] * len(shape)
    for pattern, trailing in TENSOR_RULES.items():
        if rules.matches(pattern, path) and len(shape) >= len(trailing):
            axes[len(shape) - len(trailing) :] = trailing
            break
    axes = [a if a and shape[i] % mesh.shape[a] == 0 else None for i, a in enumerate(axes)]
    return shard_largest(shape, axes, mesh)


def spec(path: str, shape: tuple[int, ...], rule: Rule, mesh: Mesh) -> PartitionSpec:
    """One rule of the config as a partition of one array."""
    if rule == "replicate":
        return PartitionSpec()
    if rule == "fsdp":
        return shard_largest(shape, [None] * len(shape), mesh)
    if isinstance(rule, str) or len(rule) != len(shape) or any(a is not None and a not in AXES for a in rule):
        raise ConfigError(
            f"mesh.rules: {rule!r} for {path} {shape}; "
            f"expected 'replicate', 'fsdp', or for each dimension None or one of {AXES}"
        )
    return PartitionSpec(*rule)


def shard_largest(shape: tuple[int, ...], axes: list[Any], mesh: Mesh) -> PartitionSpec:
    """Adds the axis `fsdp` to the largest free dimension that it divides; small arrays stay whole."""
    size = mesh.shape["fsdp"]
    free = [i for i, a in enumerate(axes) if a is None and shape[i] % size == 0]
    if size > 1 and free and np.prod(shape) >= 2**12:
        axes[max(free, key=lambda i: shape[i])] = "fsdp"
    return PartitionSpec(*axes)

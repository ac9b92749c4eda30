"""Devices to compile for: those of this machine, of any TPU topology, or GPUs."""

import os
import re
from collections.abc import Sequence
from typing import Any

import jax

from bigcl.planning.gpus import GPUS, gpus_of
from bigcl.registry import ConfigError

# libtpu asks the cloud what machine it is on, and locks the chips of this one; a compiler needs neither.
COMPILE_ONLY = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5e-16",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

WIDEST = {"v5e": 16, "v6e": 16}
"""Chips along a side of the largest slice, of those whose slices have two sides."""

CONFIGURATION = {"v4": "megacore"}
"""Which way to use a chip, where the compiler's default is not how machines come: v4 as one device, not two."""

WRITTEN = f"write it as v5e:16x16, or h100:2x8 for two hosts of eight GPUs ({', '.join(GPUS)})"


def devices_of(topology: str, slices: int = 1) -> Sequence[jax.Device]:
    """The devices of `slices` slices of a topology such as "v5e:16x16" or "v5p:4x4x8", or of hosts with GPUs such as
    "h100:2x8", which can be compiled for but not run on; or with "local" all devices of this machine.

    Raises ConfigError for a topology that there is not, ImportError where the compiler for it is missing.
    """
    if topology == "local":
        if slices != 1:
            raise ConfigError("--slices: the local devices are one slice")
        return jax.devices()
    if topology.partition(":")[0] in GPUS:
        if slices != 1:
            raise ConfigError("--slices: GPUs come in hosts, h100:4x8 for four of eight")
        return gpus_of(topology)
    return tpus_of(topology, slices)


def tpus_of(topology: str, slices: int) -> Sequence[jax.Device]:
    """The chips of "NAME:XxY" or "NAME:XxYxZ", in each slice.

    Raises as `devices_of`, and before libtpu sees a size that it would die of.
    """
    from jax.experimental import topologies

    name, _, shape = topology.partition(":")
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape):
        raise ConfigError(f"--topology {topology}: {WRITTEN}")
    sides, most = [int(n) for n in shape.split("x")], WIDEST.get(name)
    if most and (len(sides) != 2 or max(sides) > most):
        raise ConfigError(
            f"--topology {topology}: a slice of {name} has two sides and is {most}x{most} at most; more chips are more "
            "--slices"
        )
    try:
        import libtpu  # noqa: F401, JAX loads it by itself
    except ImportError as error:
        raise ImportError(
            f'--topology {topology}: compiling for TPU needs libtpu: pip install "bigcl[tpu-aot]"; GPUs are '
            f"{', '.join(GPUS)}"
        ) from error
    for key, value in COMPILE_ONLY.items():
        os.environ.setdefault(key, value)
    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if name in CONFIGURATION:
        options["chip_config_name"] = CONFIGURATION[name]
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology, **options).devices
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        raise ConfigError(f"--topology {topology}: {str(error).splitlines()[0]}; {WRITTEN}") from error

"""What the chips can do: one table for MFU and for plans."""

import dataclasses
import re
from collections.abc import Sequence

import jax

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """The vendor's figures of one chip.

    tflops, tflops_8bit: dense peak in TFLOP/s, of bfloat16 and of the faster of int8 and fp8 (as bfloat16 where the
        chip has neither).
    memory, bandwidth: of its HBM, in bytes and bytes a second.
    link, links: bytes a second that one link takes one way, and how many links a chip has to its neighbours.
    """

    tflops: float
    tflops_8bit: float
    memory: float
    bandwidth: float
    link: float
    links: int = 1


CHIPS = {
    # Half precision without bfloat16, which runs slower.
    "Tesla V100-SXM2": Chip(125, 125, 16 * GIB, 0.9e12, 150e9),
    "Tesla V100-SXM2-32GB": Chip(125, 125, 32 * GIB, 0.9e12, 150e9),
    "Tesla V100-PCIE": Chip(112, 112, 16 * GIB, 0.9e12, 16e9),
    "Tesla V100-PCIE-32GB": Chip(112, 112, 32 * GIB, 0.9e12, 16e9),
    "NVIDIA A10G": Chip(70, 140, 24 * GIB, 0.6e12, 32e9),
    "NVIDIA L4": Chip(121, 242, 24 * GIB, 0.3e12, 32e9),
    "NVIDIA L40S": Chip(362, 733, 48 * GIB, 0.864e12, 32e9),
    "NVIDIA A100": Chip(312, 624, 40 * GIB, 1.555e12, 300e9),
    "NVIDIA A100-SXM4-80GB": Chip(312, 624, 80 * GIB, 2.039e12, 300e9),
    "NVIDIA A100 80GB PCIe": Chip(312, 624, 80 * GIB, 1.935e12, 300e9),
    "NVIDIA H100": Chip(989, 1979, 80 * GIB, 3.35e12, 450e9),
    "NVIDIA H100 PCIe": Chip(756, 1513, 80 * GIB, 2.0e12, 300e9),
    "NVIDIA H100 NVL": Chip(835, 1671, 94 * GIB, 3.9e12, 300e9),
    "NVIDIA H200": Chip(989, 1979, 141e9, 4.8e12, 450e9),
    "NVIDIA H200 NVL": Chip(835, 1671, 141e9, 4.8e12, 450e9),
    "NVIDIA B200": Chip(2250, 4500, 180e9, 8.0e12, 900e9),
    "TPU v4": Chip(275, 275, 32 * GIB, 1.2e12, 45e9, links=6),
    "TPU v5 lite": Chip(197, 394, 16 * GIB, 0.81e12, 50e9, links=4),
    "TPU v5": Chip(459, 918, 95 * GIB, 2.77e12, 100e9, links=6),
    "TPU v5p": Chip(459, 918, 95 * GIB, 2.77e12, 100e9, links=6),
    "TPU v6 lite": Chip(918, 1836, 32 * GIB, 1.64e12, 100e9, links=4),
    "TPU7x": Chip(2307, 4614, 192 * GIB, 7.38e12, 100e9, links=6),
}
"""By the first words of the device's `device_kind`, the longest that fit. GPUs: figures of the data sheets without
sparsity; the link is NVLink, by its switch or bridge, or PCIe."""

DCN = 25e9
"""Bytes a second one way between a host and the data centre's network, which joins TPU slices."""


def chip(device_kind: str) -> Chip | None:
    """The figures of a device, or None for one that the table does not know (a CPU has no useful figure) and for a part
    of a GPU (MIG)."""
    known = [name for name in CHIPS if re.match(rf"{re.escape(name)}(?!\w)", device_kind)]
    return CHIPS[max(known, key=len)] if known and " MIG " not in f"{device_kind} " else None


def device_figures(devices: Sequence[jax.Device]) -> Chip | None:
    """The figures of one of these devices: of a chip, or its share where a chip is several devices (TPU v3, 7x)."""
    figures = chip(devices[0].device_kind)
    places = {(getattr(d, "slice_index", 0), tuple(getattr(d, "coords", (d.id,)))) for d in devices}
    share = len(places) / len(devices)
    if figures is None or share == 1:
        return figures
    shared = ("tflops", "tflops_8bit", "memory", "bandwidth", "link")
    return dataclasses.replace(figures, **{name: getattr(figures, name) * share for name in shared})

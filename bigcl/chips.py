"""What the chips can do: one table for MFU and for plans."""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """The vendor's figures of one chip.

    tflops: dense bfloat16 peak, in TFLOP/s.  memory, bandwidth: of its HBM, in bytes and bytes a second.
    link, links: bytes a second that one link takes one way, and how many links a chip has to its neighbours.
    """

    tflops: float
    memory: float
    bandwidth: float
    link: float
    links: int = 1


CHIPS = {
    "NVIDIA A100-SXM4-80GB": Chip(312, 80 * GIB, 2.0e12, 300e9),
    "NVIDIA A100": Chip(312, 40 * GIB, 1.6e12, 300e9),
    "NVIDIA H100": Chip(989, 80 * GIB, 3.35e12, 450e9),
    "NVIDIA H200": Chip(989, 141e9, 4.8e12, 450e9),
    "TPU v4": Chip(275, 32 * GIB, 1.2e12, 45e9, links=6),
    "TPU v5 lite": Chip(197, 16 * GIB, 0.81e12, 50e9, links=4),
    "TPU v5": Chip(459, 95 * GIB, 2.77e12, 100e9, links=6),  # v5p
    "TPU v6 lite": Chip(918, 32 * GIB, 1.64e12, 100e9, links=4),
}
"""By the start of the device's `device_kind`, the longest that fits."""

DCN = 25e9
"""Bytes a second one way between a host and the data centre's network, which joins TPU slices."""


def chip(device_kind: str) -> Chip | None:
    """The figures of a device, or None for one that the table does not know (a CPU has no useful figure)."""
    known = [name for name in CHIPS if device_kind.startswith(name)]
    return CHIPS[max(known, key=len)] if known else None

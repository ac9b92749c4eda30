"""The table of chips, by the names that devices have."""

import types

import pytest

from bigcl.chips import GIB, chip, device_figures


@pytest.mark.parametrize(
    ("kind", "tflops", "memory", "bandwidth"),
    [
        ("Tesla V100-SXM2-16GB", 125, 16 * GIB, 0.9e12),
        ("Tesla V100-SXM2-32GB", 125, 32 * GIB, 0.9e12),
        ("Tesla V100-PCIE-32GB", 112, 32 * GIB, 0.9e12),
        ("NVIDIA A10G", 70, 24 * GIB, 0.6e12),
        ("NVIDIA L4", 121, 24 * GIB, 0.3e12),
        ("NVIDIA L40S", 362, 48 * GIB, 0.864e12),
        ("NVIDIA A100-SXM4-40GB", 312, 40 * GIB, 1.555e12),
        ("NVIDIA A100-PCIE-40GB", 312, 40 * GIB, 1.555e12),
        ("NVIDIA A100-SXM4-80GB", 312, 80 * GIB, 2.039e12),
        ("NVIDIA A100 80GB PCIe", 312, 80 * GIB, 1.935e12),
        ("NVIDIA H100 80GB HBM3", 989, 80 * GIB, 3.35e12),
        ("NVIDIA H100 PCIe", 756, 80 * GIB, 2.0e12),
        ("NVIDIA H100 NVL", 835, 94 * GIB, 3.9e12),
        ("NVIDIA H200", 989, 141e9, 4.8e12),
        ("NVIDIA B200", 2250, 180e9, 8.0e12),
        ("TPU v4", 275, 32 * GIB, 1.2e12),
        ("TPU v5 lite", 197, 16 * GIB, 0.81e12),
        ("TPU v5", 459, 95 * GIB, 2.77e12),
        ("TPU v6 lite", 918, 32 * GIB, 1.64e12),
        ("TPU7x", 2307, 192 * GIB, 7.38e12),
    ],
)
def test_a_device_has_its_own_figures(kind, tflops, memory, bandwidth):
    figures = chip(kind)
    assert (figures.tflops, figures.memory, figures.bandwidth) == (tflops, memory, bandwidth)
    assert figures.tflops <= figures.tflops_8bit <= 2.03 * figures.tflops


@pytest.mark.parametrize(
    "kind", ["cpu", "NVIDIA A10", "NVIDIA L40", "NVIDIA H1000", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "TPU v2"]
)
def test_what_is_not_known_has_none(kind):
    assert chip(kind) is None


def test_a_device_that_is_half_a_chip_has_half():
    devices = [types.SimpleNamespace(device_kind="TPU7x", coords=[0, 0, n // 2], id=n) for n in range(4)]
    half, whole = device_figures(devices), chip("TPU7x")
    assert (half.tflops, half.tflops_8bit, half.memory, half.bandwidth, half.link, half.links) == (
        *(x / 2 for x in (whole.tflops, whole.tflops_8bit, whole.memory, whole.bandwidth, whole.link)),
        whole.links,
    )
    assert device_figures(devices[::2]) == whole

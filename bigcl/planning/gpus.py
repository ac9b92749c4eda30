"""GPUs to compile for that are not there, by names such as "h100:2x8": two hosts of eight."""

import dataclasses
import importlib.util
import os
import re
from collections.abc import Sequence

import jax

from bigcl.chips import chip
from bigcl.registry import ConfigError, nearest


@dataclasses.dataclass(frozen=True)
class Gpu:
    """What XLA asks of a GPU, by the vendor's figures; memory and its bandwidth are in `bigcl/chips.py`.

    kind: its `device_kind`.  capability: compute capability.  cores: streaming multiprocessors.  lanes: float32 units
    of a core.  threads: that a core holds at most.  shared: bytes of shared memory of a core.  l2: bytes.  ghz: boost.
    """

    kind: str
    capability: tuple[int, int]
    cores: int
    lanes: int
    threads: int
    shared: int
    l2: int
    ghz: float

    @property
    def float32_tflops(self) -> float:
        """Peak of the float32 units, each of which multiplies and adds once a cycle."""
        return 2 * self.cores * self.lanes * self.ghz / 1e3

    def target(self) -> str:
        """The target of XLA's compiler, as the text of its protocol buffer."""
        figures = chip(self.kind)
        assert figures is not None
        block = self.shared - 1024  # what CUDA keeps
        fields = {
            "threads_per_block_limit": 1024,
            "threads_per_warp": 32,
            "shared_memory_per_block": 48 * 1024,
            "shared_memory_per_core": self.shared,
            "shared_memory_per_block_optin": block,
            "threads_per_core_limit": self.threads,
            "core_count": self.cores,
            "fpus_per_core": self.lanes,
            "block_dim_limit_x": 2**31 - 1,
            "block_dim_limit_y": 65535,
            "block_dim_limit_z": 65535,
            "memory_bandwidth": int(figures.bandwidth),
            "l2_cache_size": self.l2,
            "clock_rate_ghz": self.ghz,
            "device_memory_size": int(figures.memory),
            "registers_per_core_limit": 65536,
            "registers_per_block_limit": 65536,
        }
        major, minor = self.capability
        info = "\n".join(f"{key}: {value}" for key, value in fields.items())
        return (
            f"gpu_device_info {{\n{info}\ncuda_compute_capability {{ major: {major} minor: {minor} }}\n}}\n"
            'platform_name: "CUDA"\ndnn_version_info { major: 9 minor: 8 }\nruntime_version { major: 12 minor: 9 }\n'
            f'device_description_str: "{self.kind}"\n'
        )


KIB, MIB = 2**10, 2**20
GPUS = {
    "a10g": Gpu("NVIDIA A10G", (8, 6), 80, 128, 1536, 100 * KIB, 6 * MIB, 1.71),
    "a100-40gb": Gpu("NVIDIA A100-SXM4-40GB", (8, 0), 108, 64, 2048, 164 * KIB, 40 * MIB, 1.41),
    "a100-80gb": Gpu("NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 2048, 164 * KIB, 40 * MIB, 1.41),
    "l4": Gpu("NVIDIA L4", (8, 9), 58, 128, 1536, 100 * KIB, 48 * MIB, 2.04),
    "l40s": Gpu("NVIDIA L40S", (8, 9), 142, 128, 1536, 100 * KIB, 96 * MIB, 2.52),
    "h100": Gpu("NVIDIA H100 80GB HBM3", (9, 0), 132, 128, 2048, 228 * KIB, 50 * MIB, 1.98),
    "h200": Gpu("NVIDIA H200", (9, 0), 132, 128, 2048, 228 * KIB, 50 * MIB, 1.98),
    "b200": Gpu("NVIDIA B200", (10, 0), 148, 128, 2048, 228 * KIB, 126 * MIB, 1.97),
}


def gpus_of(topology: str) -> Sequence[jax.Device]:
    """The GPUs of "NAME:HOSTSxGPUS", or of "NAME:GPUS" on one host.

    Raises ConfigError for others than `GPUS` and for other forms, ImportError where JAX has no CUDA.
    """
    from jax.experimental import topologies

    name, _, shape = topology.partition(":")
    if name not in GPUS:
        raise ConfigError(f"--topology {topology}: unknown GPU {name!r}; {nearest(name, GPUS)}")
    if not re.fullmatch(r"([1-9]\d*x)?[1-9]\d*", shape):
        raise ConfigError(f"--topology {topology}: write it as {name}:8, or as {name}:2x8 for two hosts of eight")
    if not any(importlib.util.find_spec(f"jax_cuda{n}_plugin") for n in (12, 13)):
        raise ImportError(
            f'--topology {topology}: compiling for a GPU needs JAX for CUDA, but no GPU: pip install "bigcl[gpu-aot]"'
        )
    hosts, _, each = shape.rpartition("x")
    description = {"target_config": GPUS[name].target(), "topology": f"1x{hosts or 1}x{each}"}
    return topologies.get_topology_desc(platform="cuda", **description).devices


def compiler_options(devices: Sequence[jax.Device]) -> dict[str, bool]:
    """What XLA needs to be told for GPUs that are not there: it chooses the tiles of its own products by trying them,
    and cuBLAS, whose products take the same memory, has none to choose."""
    absent = devices[0].platform == "gpu" and devices[0] not in jax.devices()
    return {"xla_gpu_enable_triton_gemm": False} if absent else {}


def usable(memory: float) -> int:
    """Bytes of a GPU's memory that JAX takes, by XLA_PYTHON_CLIENT_MEM_FRACTION; three quarters by default."""
    return int(memory * float(os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", 0.75)))

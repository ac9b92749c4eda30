"""Plans for GPUs that are not there."""

import dataclasses
import importlib.util

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bigcl.chips import chip
from bigcl.losses import infonce, sigmoid
from bigcl.planning.gpus import GPUS, compiler_options, usable
from bigcl.planning.planner import Hosts, make_plan
from bigcl.planning.topology import devices_of
from bigcl.registry import ConfigError
from tests.planning.test_planner import config

HERE = any(importlib.util.find_spec(f"jax_cuda{n}_plugin") for n in (12, 13))
compiles = pytest.mark.skipif(not HERE, reason='compiles for GPU: pip install "bigcl[gpu-aot]"')


@pytest.mark.parametrize("name", GPUS)
def test_every_gpu_has_its_figures(name):
    gpu = GPUS[name]
    figures = chip(gpu.kind)
    assert figures is not None and figures.memory > 20e9
    target = gpu.target()
    assert (
        f"device_memory_size: {int(figures.memory)}\n" in target and f'device_description_str: "{gpu.kind}"' in target
    )
    assert f"major: {gpu.capability[0]} minor: {gpu.capability[1]}" in target and target.count("{") == target.count("}")


@pytest.mark.parametrize(
    ("topology", "slices", "message"),
    [
        ("h100:0", 1, "write it as h100:8, or as h100:2x8"),
        ("h100", 1, "write it as h100:8"),
        ("h100:2x2x2", 1, "write it as h100:8"),
        ("h100:8", 2, "GPUs come in hosts"),
    ],
)
def test_other_forms_are_errors(topology, slices, message):
    with pytest.raises(ConfigError, match=message):
        devices_of(topology, slices)


def test_without_cuda_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"bigcl\[gpu-aot\]"):
        devices_of("h100:8")


def test_jax_takes_a_share_of_the_memory(monkeypatch):
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    assert usable(80e9) == 60e9
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")
    assert usable(80e9) == 40e9


def test_devices_that_are_there_need_no_options():
    assert compiler_options(jax.devices()) == {}


@compiles
def test_a_plan_for_hosts_of_gpus(monkeypatch):
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    devices = devices_of("h100:2x4")
    assert dataclasses.astuple(Hosts.of(devices)) == (2, 4, 2)
    plan = make_plan(config(**{"mesh.fsdp": 2}), devices)
    assert plan.devices == "8 x NVIDIA H100 80GB HBM3" and plan.fits and plan.tflops == 989
    assert plan.memory["limit"] == int(0.75 * 80 * 2**30)
    assert min(plan.seconds[k] for k in ("FLOPs", "HBM", "links")) > 0 and plan.bound[0] == "HBM"
    assert {a for c in plan.collectives for a in c.axes} == {"data", "fsdp"}
    assert any(t.source.startswith("bigcl/towers/") for t in plan.temporaries)
    assert any("between hosts" in note for note in plan.notes)


@compiles
def test_attention_by_cudnn_is_compiled_for_gpus_and_takes_less():
    """Pictures of 197 tokens, with a class token, and texts of 64 that see what is before them."""
    plans = []
    for attention in ("plain", "cudnn"):
        towers = {f"task.towers.{name}.attention": attention for name in ("image", "text")}
        sizes = {"task.towers.image.image_size": 224, "task.towers.image.patch": 16, "task.towers.image.pool": "cls"}
        more = {"train.dtype": "bfloat16", "train.batch": 256}
        plans.append(make_plan(config(**towers, **sizes, **more), devices_of("h100:2")))
    plain, fused = plans
    assert fused.hbm_bytes < 0.9 * plain.hbm_bytes and fused.flops["step"] == plain.flops["step"]


@compiles
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("loss", [infonce, sigmoid])
def test_a_million_pairs_on_one_gpu(loss, dtype):
    """Loss and gradients of 2^20 x 512 beside inputs and gradients: of bfloat16, half of the bits of one sum in
    float32."""
    devices = devices_of("h200:1")
    where = NamedSharding(Mesh(devices, ("data",)), PartitionSpec())
    z = jax.ShapeDtypeStruct((2**20, 512), dtype, sharding=where)
    number = jax.ShapeDtypeStruct((), jnp.float32, sharding=where)
    arguments = (z, z, number) if loss is infonce else (z, z, number, number)
    gradient = jax.jit(jax.value_and_grad(loss, tuple(range(len(arguments)))))
    memory = gradient.lower(*arguments).compile(compiler_options(devices)).memory_analysis()
    assert memory.temp_size_in_bytes < (2**27 if dtype == jnp.float32 else 2**30 + 2**27)

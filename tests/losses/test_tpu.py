"""Losses compiled ahead of time for TPU chips that are not at hand."""

import re

import jax
import jax.numpy as jnp
import pytest

from bigcl.losses import infonce, sigmoid, streaming
from bigcl.mesh import batch_sharding, make_mesh, replicated
from bigcl.planning.planner import without_cache
from bigcl.planning.topology import devices_of

pytest.importorskip("libtpu", reason='pip install "bigcl[tpu-aot]"')


@pytest.fixture(params=["v5e", "v6e"])
def core(request):
    """One core of a chip."""
    return jax.sharding.SingleDeviceSharding(devices_of(f"{request.param}:2x2")[0])


@pytest.mark.parametrize("loss", [infonce, sigmoid])
def test_tiles_stay_in_vector_memory(loss, core):
    """What makes a kernel needless: neither logits nor their derivatives go through HBM, and the derivatives enter
    their two products, one pass each, rounded to the embeddings' dtype."""
    z = jax.ShapeDtypeStruct((2 * streaming.TILE, 128), jnp.bfloat16, sharding=core)
    number = jax.ShapeDtypeStruct((), jnp.float32, sharding=core)
    arguments = (z, z, number, number)[: 3 if loss is infonce else 4]
    gradient = jax.value_and_grad(loss, argnums=tuple(range(len(arguments))))
    with without_cache():
        program = jax.jit(gradient).lower(*arguments).compile()
    assert program.memory_analysis().temp_size_in_bytes < streaming.TILE**2
    tiles = re.findall(
        rf"^.* (\w+)\[{streaming.TILE},{streaming.TILE}\]\S*S\(1\)\S* get-tuple-element", program.as_text(), re.M
    )
    assert "bf16" in tiles


@pytest.mark.parametrize("loss", [infonce, sigmoid])
@pytest.mark.parametrize(("dtype", "most"), [(jnp.float32, 2**27), (jnp.bfloat16, 2**30 + 2**26)])
def test_a_million_pairs_on_one_chip(loss, dtype, most, core):
    """Beside inputs and gradients: of bfloat16, half of the bits of one sum in float32."""
    z = jax.ShapeDtypeStruct((2**20, 512), dtype, sharding=core)
    number = jax.ShapeDtypeStruct((), jnp.float32, sharding=core)
    arguments = (z, z, number, number)[: 3 if loss is infonce else 4]
    with without_cache():
        program = jax.jit(jax.value_and_grad(loss, tuple(range(len(arguments))))).lower(*arguments).compile()
    assert program.memory_analysis().temp_size_in_bytes < most


def test_what_goes_round_the_ring_travels_while_tiles_are_computed(monkeypatch):
    """Columns, forward and backward, and their gradient: between the start and the end of each transfer of a visit lies
    the loop over tiles."""
    monkeypatch.setattr(streaming, "TILE", 128)
    monkeypatch.setattr(streaming, "GATHER_BYTES", 0)
    mesh = make_mesh(devices=devices_of("v5e:2x2"))
    z = jax.ShapeDtypeStruct((4 * 512, 512), jnp.bfloat16, sharding=batch_sharding(mesh))
    scale = jax.ShapeDtypeStruct((), jnp.float32, sharding=replicated(mesh))
    with jax.set_mesh(mesh), without_cache():
        text = jax.jit(jax.value_and_grad(infonce, (0, 1, 2))).lower(z, z, scale).compile().as_text()
    loops, _ = text.split("ENTRY ")
    transfers = re.findall(
        r"^ *%(\S+) = \((\w+)\[256,512\][^\n]* collective-permute-start\((?=(.*?)collective-permute-done\(%\1\))",
        loops,
        re.M | re.S,
    )
    assert sorted(dtype for _, dtype, _ in transfers) == ["bf16"] * 4 + ["f32"] * 2
    assert all(" while(" in between for *_, between in transfers)

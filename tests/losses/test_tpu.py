"""Losses compiled ahead of time for TPU chips that are not at hand."""

import re

import jax
import jax.numpy as jnp
import pytest

from bigcl.losses import infonce, sigmoid, streaming

pytest.importorskip("libtpu", reason='pip install "bigcl[tpu-aot]"')


@pytest.fixture(params=["v5e", "v6e"])
def core(request, monkeypatch):
    """One core of a chip."""
    from jax.experimental import topologies

    here = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    for name, value in (here | {"TPU_ACCELERATOR_TYPE": f"{request.param}-4"}).items():
        monkeypatch.setenv(name, value)
    topology = topologies.get_topology_desc(platform="tpu", topology_name=f"{request.param}:2x2")
    return jax.sharding.SingleDeviceSharding(topology.devices[0])


@pytest.mark.parametrize("loss", [infonce, sigmoid])
def test_tiles_stay_in_vector_memory(loss, core):
    """What makes a kernel needless: neither logits nor their derivatives go through HBM, and the derivatives enter
    their two products, one pass each, rounded to the embeddings' dtype."""
    z = jax.ShapeDtypeStruct((2 * streaming.TILE, 128), jnp.bfloat16, sharding=core)
    number = jax.ShapeDtypeStruct((), jnp.float32, sharding=core)
    arguments = (z, z, number, number)[: 3 if loss is infonce else 4]
    gradient = jax.value_and_grad(loss, argnums=tuple(range(len(arguments))))
    program = jax.jit(gradient).lower(*arguments).compile()
    assert program.memory_analysis().temp_size_in_bytes < streaming.TILE**2
    tiles = re.findall(
        rf"^.* (\w+)\[{streaming.TILE},{streaming.TILE}\]\S*S\(1\)\S* get-tuple-element", program.as_text(), re.M
    )
    assert "bf16" in tiles

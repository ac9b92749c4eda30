"""Compiled for TPU: the memory of the streamed loss in ring form does not grow with the number of chips."""

import math

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bigcl.losses import streaming
from bigcl.mesh import batch_sharding, make_mesh
from bigcl.planning.collectives import read_collectives
from bigcl.planning.hlo import Module
from bigcl.planning.planner import without_cache
from bigcl.planning.topology import devices_of

pytest.importorskip("libtpu", reason='compiles for TPU: pip install "bigcl[tpu-aot]"')

ROWS, DIM = 128, 512


def ring_loss(za, zb, scale):
    """Symmetric InfoNCE, its columns in a ring whatever their size."""
    sums = streaming.stream(lambda a, b, s: ((streaming.logits(a, b, s),), ()), za, zb, scale, exchange="ring")
    return (sums.row_lse[0] + sums.column_lse[0] - 2 * streaming.paired_logits(za, zb, scale)).mean() / 2


def compiled(topology, slices):
    """Bytes of temporaries a chip, and the collectives, of loss and gradient with 128 rows a chip."""
    mesh = make_mesh(devices=devices_of(topology, slices))
    rows = mesh.devices.size * ROWS
    z = jax.ShapeDtypeStruct((rows, DIM), jnp.bfloat16, sharding=batch_sharding(mesh))
    scale = jax.ShapeDtypeStruct((), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec()))
    with jax.set_mesh(mesh), without_cache():
        program = jax.jit(jax.value_and_grad(ring_loss, (0, 1, 2))).lower(z, z, scale).compile()
    found = read_collectives(Module(program.as_text()), dict(mesh.shape))
    return program.memory_analysis().temp_size_in_bytes, found, rows


@pytest.mark.parametrize(
    ("slices", "topologies"),
    [
        (1, ["v5e:2x4", "v5e:8x8", "v5e:16x16"]),  # 8, 64 and 256 chips, the most that a slice has
        (4, ["v5e:1x2", "v5e:4x4", "v5e:8x8", "v5e:16x16"]),  # 8, 64, 256 and 1,024; buffers for the hosts' network
    ],
)
def test_temporaries_do_not_grow_and_nothing_is_gathered(slices, topologies):
    """No program needs 10% more than any for fewer chips (some need less)."""
    programs = [compiled(topology, slices) for topology in topologies]
    least = math.inf
    for temporaries, found, rows in programs:
        assert temporaries < 1.1 * least
        least = min(least, temporaries)
        assert {c.kind for c in found} == {"collective-permute", "all-reduce"}
        for c in found:
            if c.kind == "all-reduce":
                assert c.bytes < 4096, c  # the gradient of the scale
            else:
                assert c.count in (rows // ROWS, 1) and not any(f"[{rows}," in s for s in c.shapes), c
        once = [c for c in found if c.kind == "collective-permute" and c.count == 1]
        # The gradient of the columns comes home, and XLA may take the columns of one visit out of the loop.
        assert sum(c.bytes for c in once) <= ROWS * DIM * (4 + 2), once
    assert [rows // ROWS for *_, rows in programs] == [8, 64, 256, 1024][: len(programs)]

"""Names of topologies: what they give, and what is said of those that are none."""

import importlib.util

import pytest

from bigcl.mesh import make_mesh
from bigcl.planning.topology import devices_of
from bigcl.registry import ConfigError

compiles = pytest.mark.skipif(
    not importlib.util.find_spec("libtpu"), reason='compiles for TPU: pip install "bigcl[tpu-aot]"'
)


@pytest.mark.parametrize("topology", ["v5e:0x4", "v5p:0x2x1", "v5e:4x", "v5e", "v5e:axb", "v5e:04x4", "v5e:-4x4"])
def test_what_is_no_size_is_an_error(topology):
    with pytest.raises(ConfigError, match=f"--topology {topology}: write it as v5e:16x16"):
        devices_of(topology)


@pytest.mark.parametrize("topology", ["v5e:16x16x2", "v6e:4x4x4", "v6e:8", "v5e:32x8"])
def test_slices_of_two_sides_have_no_more(topology):
    with pytest.raises(ConfigError, match="has two sides and is 16x16 at most"):
        devices_of(topology)


@compiles
@pytest.mark.parametrize(("topology", "slices", "count"), [("v4:2x2x1", 1, 4), ("v5p:2x2x1", 1, 4), ("v5e:2x4", 2, 16)])
def test_a_chip_is_a_device(topology, slices, count):
    devices = devices_of(topology, slices)
    assert len(devices) == count == make_mesh(devices=devices).size


@compiles
def test_axes_may_split_a_side():
    assert make_mesh(devices=devices_of("v6e:4x4"), fsdp=8).shape["fsdp"] == 8

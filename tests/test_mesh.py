"""Where arrays lie, and that a training step gives the same numbers wherever they do."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from bigcl.mesh import AXES, batch_sharding, by_slice, make_mesh, place, replicated
from bigcl.registry import ConfigError
from tests.problems import TRANSFORMERS, Problem, assert_close

MESHES = [{"data": 8}, {"replica": 2, "data": 2, "fsdp": 2}, {"data": 1, "fsdp": 4, "tensor": 2}]


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ({}, (1, 8, 1, 1)),
        ({"data": 2, "fsdp": -1}, (1, 2, 4, 1)),
        ({"replica": 2, "fsdp": 2}, (2, 2, 2, 1)),
        ({"data": 1, "fsdp": 4, "tensor": 2}, (1, 1, 4, 2)),
    ],
)
def test_one_axis_takes_what_is_left(sizes, shape):
    mesh = make_mesh(**sizes)
    assert mesh.axis_names == AXES and mesh.devices.shape == shape


@pytest.mark.parametrize(
    "sizes", [{"data": 3}, {"data": 4}, {"data": -1, "fsdp": -1}, {"fsdp": 16}, {"fsdp": 0}, {"data": 16}]
)
def test_sizes_that_do_not_fit_are_an_error(sizes):
    with pytest.raises(ConfigError, match=r"mesh: .*does not fit 8 devices"):
        make_mesh(**sizes)


@dataclasses.dataclass(frozen=True)
class Absent:
    """A device of a cluster; what JAX calls the index of a slice is, on all but TPUs, that of a host."""

    id: int
    slice_index: int
    platform: str
    device_kind: str = "some"


def cluster(platform, hosts=4, each=8):
    return [Absent(i, i // each, platform) for i in range(hosts * each)]


@pytest.mark.parametrize("platform", ["gpu", "cpu"])
def test_hosts_of_a_cluster_without_tpus_are_one_slice(platform):
    devices = cluster(platform)
    mesh = make_mesh(devices=devices, fsdp=-1, data=1)
    assert mesh.shape == {"replica": 1, "data": 1, "fsdp": 32, "tensor": 1}
    assert list(mesh.devices.flat) == devices
    dealt = [devices[host * 8 + i] for i in range(8) for host in range(4)]  # by processes that hosts take in turn
    assert list(make_mesh(devices=dealt, data=4, fsdp=8).devices.flat) == devices


def test_slices_of_tpus_are_slices():
    devices = cluster("tpu")
    assert by_slice(devices[::-1]) == [devices[i : i + 8][::-1] for i in range(0, 32, 8)]


def test_batches_are_split_over_all_axes_but_tensor():
    mesh = make_mesh(replica=2, data=1, fsdp=2, tensor=2)
    assert batch_sharding(mesh).shard_shape((16, 3)) == (4, 3)
    assert replicated(mesh).shard_shape((16, 3)) == (16, 3)


def shapes(**given):
    return {k: jax.ShapeDtypeStruct(v, np.float32) for k, v in given.items()}


def test_large_arrays_are_split_over_fsdp_along_their_largest_dimension_that_divides():
    where = place(shapes(a=(64, 128), b=(129, 64), c=(63, 127), small=(8, 8), scalar=()), make_mesh(fsdp=4))
    assert {k: v.spec for k, v in where.items()} == {
        "a": PartitionSpec(None, "fsdp"),
        "b": PartitionSpec(None, "fsdp"),
        "c": PartitionSpec(None, None),
        "small": PartitionSpec(None, None),
        "scalar": PartitionSpec(),
    }
    assert all("fsdp" not in v.spec for v in place(shapes(a=(64, 128)), make_mesh()).values())


def test_heads_and_hidden_units_are_split_over_tensor():
    problem, mesh = Problem(TRANSFORMERS), make_mesh(data=1, fsdp=4, tensor=2)
    where = place(problem.shapes, mesh)
    block = "towers/image/stack/blocks"
    assert {k.removeprefix(block): where[k].spec for k in where if k.startswith(block) and "norm" not in k} == {
        "/attention/qkv": PartitionSpec(None, "fsdp", None, "tensor", None),
        "/attention/qkv_bias": PartitionSpec(None, None, "tensor", None),
        "/attention/out": PartitionSpec(None, "tensor", None, None),
        "/attention/out_bias": PartitionSpec(None, None),
        "/mlp/up/kernel": PartitionSpec(None, "fsdp", "tensor"),
        "/mlp/up/bias": PartitionSpec(None, "tensor"),
        "/mlp/down/kernel": PartitionSpec(None, "tensor", "fsdp"),
        "/mlp/down/bias": PartitionSpec(None, None),
    }
    for path, sharding in where.items():  # that is, every dimension divides
        assert np.prod(sharding.shard_shape(problem.shapes[path].shape)) <= problem.shapes[path].size


def test_heads_that_do_not_divide_stay_whole():
    where = place({"x/attention/qkv": jax.ShapeDtypeStruct((6, 3, 3, 2), np.float32)}, make_mesh(data=4, tensor=2))
    assert where["x/attention/qkv"].spec == PartitionSpec(None, None, None, None)


def test_rules_of_the_config_decide():
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    placement = [("a", "replicate"), ("b/.*", [None, "tensor"]), ["b.*|c", "fsdp"]]
    where = place(shapes(**{"a": (64, 64), "b/x": (4, 4), "b": (128, 64), "c": (3, 5)}), mesh, placement)
    assert {k: v.spec for k, v in where.items()} == {
        "a": PartitionSpec(),
        "b/x": PartitionSpec(None, "tensor"),
        "b": PartitionSpec("fsdp", None),
        "c": PartitionSpec(None, None),
    }


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        ([("a", "fsdp")], "mesh.rules: no pattern covers b"),
        (
            [("a", "fsdp"), ("bb", "fsdp"), (".*", "fsdp")],
            "mesh.rules: pattern 'bb' matches no parameter; the nearest is 'b'",
        ),
        ([(".*", "shard")], "mesh.rules: 'shard' for a"),
        ([(".*", [None])], r"mesh.rules: \[None\] for a \(64, 64\)"),
        ([(".*", [None, "model"])], "mesh.rules: .*'model'.* one of"),
    ],
)
def test_rules_that_do_not_fit_are_an_error(placement, message):
    with pytest.raises(ConfigError, match=message):
        place(shapes(a=(64, 64), b=(64, 64)), make_mesh(), placement)


@functools.cache
def on_one_device():
    return Problem(TRANSFORMERS).train(3)


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_training_is_the_same_on_any_mesh(sizes):
    """Three steps with dropout, patch dropout, remat, momentum, clipping, two losses and a moving average."""
    mesh = make_mesh(**sizes)
    state, metrics = Problem(TRANSFORMERS).train(3, mesh)
    expected, expected_metrics = on_one_device()
    assert_close(metrics, expected_metrics)
    assert_close(state, expected)
    used = {
        axis for x in jax.tree.leaves((state.params, state.opt_state, state.ema)) for axis in x.sharding.spec if axis
    }
    assert used >= {a for a in ("fsdp", "tensor") if mesh.shape[a] > 1}

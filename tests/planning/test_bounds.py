"""Lower bounds of the step time, against figures computed by hand from small programs."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import pytest

from bigcl.chips import DCN, Chip
from bigcl.flops import products
from bigcl.planning.collectives import read_collectives, summarize
from bigcl.planning.hlo import Module
from bigcl.planning.planner import Hosts, float32_passes, lower_bounds, passes

CHIP = Chip(tflops=100, tflops_8bit=200, memory=2**34, bandwidth=1e12, link=5e10, links=4)
TPU = types.SimpleNamespace(platform="tpu", device_kind="TPU v5 lite")
H200, UNKNOWN = (types.SimpleNamespace(platform="gpu", device_kind=f"NVIDIA {name}") for name in ("H200", "X1"))
ONE = Hosts(count=1, chips=4, in_slice=1)
N = 2**20
MEBIBYTES = 4 * N
"""Bytes of an f32[N]."""


def program(*lines):
    """A module whose entry takes `x: f32[N]` and runs these lines."""
    body = "\n".join(f"  {line}" for line in lines)
    return Module(
        f"HloModule m\n\nENTRY %main (x: f32[{N}]) -> f32[{N}] {{\n  %x = f32[{N}]{{0}} parameter(0)\n{body}\n}}\n"
    )


def permute(name, pairs, root=""):
    return f"{root}%{name} = f32[{N}]{{0}} collective-permute(%x), channel_id=1, source_target_pairs={pairs}"


def send(name, pairs):
    attributes = f'_xla_megascale_target={pairs},_xla_megascale_transfer_type="ONE_TO_ONE"'
    return f"%{name} = (f32[{N}]{{0}}, u32[], token[]) send(%x, %t), channel_id=2, frontend_attributes={{{attributes}}}"


AHEAD, BACK = "{{0,1},{1,2},{2,3},{3,0}}", "{{1,0},{2,1},{3,2},{0,3}}"


def seconds(module, hosts=ONE, mesh=4):
    return lower_bounds(CHIP, 0.0, 0.0, read_collectives(module, {"data": mesh}), hosts)


def test_halves_of_a_ring_take_a_link_each_and_one_way_takes_one():
    both = seconds(program(permute("a", AHEAD), permute("b", BACK, "ROOT ")))
    assert both["links"] == pytest.approx(MEBIBYTES / 5e10)
    one_way = seconds(program(permute("a", AHEAD), permute("b", AHEAD, "ROOT ")))
    assert one_way["links"] == pytest.approx(2 * MEBIBYTES / 5e10)


def test_other_collectives_take_all_links_beside_the_ring():
    reduce = f"%r = f32[{N}]{{0}} all-reduce(%x), channel_id=3, replica_groups={{{{0,1,2,3}}}}, to_apply=%add"
    alone = seconds(program(f"ROOT {reduce}"))
    assert alone["links"] == pytest.approx(2 * 3 / 4 * MEBIBYTES / (4 * 5e10))
    small = seconds(program(reduce, permute("b", BACK, "ROOT ")))
    assert small["links"] == pytest.approx(MEBIBYTES / 5e10)  # one link of four is busy longest
    sent = 4 * 2 * 3 / 4 * MEBIBYTES + MEBIBYTES
    times_four = program(*(reduce.replace("%r ", f"%r{i} ") for i in range(4)), permute("b", BACK, "ROOT "))
    assert seconds(times_four)["links"] == pytest.approx(sent / (4 * 5e10))


def test_a_switch_is_one_link_for_everything():
    gpu = dataclasses.replace(CHIP, links=1)
    each = read_collectives(program(permute("a", AHEAD), permute("b", BACK, "ROOT ")), {"data": 4})
    assert lower_bounds(gpu, 0.0, 0.0, each, ONE)["links"] == pytest.approx(2 * MEBIBYTES / 5e10)


FORTH, HOME = "{{100004->200000},{200004->100000}}", "{{200000->100004},{100000->200004}}"


def test_between_slices_the_two_ways_of_a_ring_leave_by_two_hosts():
    module = program("%t = token[] after-all()", send("s", FORTH), send("r", HOME), permute("b", AHEAD, "ROOT "))
    each = read_collectives(module, {"replica": 2, "data": 4})
    assert {c.route for c in each if c.dcn} == {FORTH, HOME} and all(not c.route for c in summarize(each))
    apart = lower_bounds(CHIP, 0.0, 0.0, each, Hosts(count=4, chips=4, in_slice=2))
    assert apart["network between slices"] == pytest.approx(MEBIBYTES / DCN)
    together = lower_bounds(CHIP, 0.0, 0.0, each, Hosts(count=2, chips=4, in_slice=1))
    assert together["network between slices"] == pytest.approx(2 * MEBIBYTES / DCN)
    assert together["links"] == pytest.approx(MEBIBYTES / 5e10)


def test_what_all_chips_send_between_slices_shares_the_network_of_their_host():
    reduce = send("s", FORTH).replace("ONE_TO_ONE", "ALL_REDUCE")
    module = program("%t = token[] after-all()", reduce, send("r", HOME), permute("b", AHEAD, "ROOT "))
    each = read_collectives(module, {"replica": 2, "data": 4})
    found = lower_bounds(CHIP, 0.0, 0.0, each, Hosts(count=4, chips=4, in_slice=2))
    assert found["network between slices"] == pytest.approx((4 + 1) * MEBIBYTES / DCN)


@pytest.mark.parametrize(
    ("dtype", "precision", "device", "expected"),
    [
        (jnp.bfloat16, None, TPU, 1),
        (jnp.float32, None, TPU, 1),
        (jnp.float32, "high", TPU, 3),
        (jnp.float32, "highest", TPU, 6),
        (jnp.bfloat16, "highest", TPU, 1),
        (jnp.int8, None, TPU, 0.5),
        (jnp.float32, None, H200, 2),
        (jnp.float32, "highest", H200, CHIP.tflops / 66.9),
        (jnp.bfloat16, "highest", H200, 1),
        (jnp.float8_e4m3fn, None, H200, 0.5),
        (jnp.float32, "highest", UNKNOWN, 1),
    ],
)
def test_a_product_takes_the_passes_of_its_precision(dtype, precision, device, expected):
    a = jnp.zeros((4, 4), dtype)
    jaxpr = jax.make_jaxpr(lambda a: jax.lax.dot(a, a, precision=precision, preferred_element_type=jnp.float32))(a)
    (product,) = products(jaxpr.jaxpr)
    assert passes(product, CHIP, float32_passes(device, CHIP)) == pytest.approx(expected, rel=1e-3)

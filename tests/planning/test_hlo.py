"""The reader of HLO against programs whose loops, collectives and traffic are known by hand."""

import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigcl.planning import hlo
from bigcl.planning.collectives import axes_of, parse_groups, read_collectives, summarize
from bigcl.planning.hlo import Module, parse_arrays
from bigcl.planning.traffic import hbm_bytes

GOLDEN = (pathlib.Path(__file__).parent / "data/scan_v5e.hlo").read_text()
"""tanh(x @ w) six times by `lax.scan`, summed; x [64, 1024] over `data` (2), w [6, 1024, 1024] over `tensor` (4) by its
last dimension; compiled by libtpu 0.0.52 for v5e:2x4."""
MESH = {"data": 2, "tensor": 4}


def compiled(function, *shapes) -> Module:
    """A function of float32 arrays as this machine's compiler leaves it."""
    arguments = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
    return Module(jax.jit(function).lower(*arguments).compile().as_text())


@given(
    st.sampled_from([("f32", 4), ("bf16", 2), ("pred", 1), ("s8", 1), ("f8e4m3fn", 1), ("u64", 8)]),
    st.lists(st.integers(1, 300), min_size=2, max_size=4),
    st.data(),
)
def test_an_array_takes_the_place_of_its_tiles(dtype, dims, data):
    name, width = dtype
    order = data.draw(st.permutations(range(len(dims))))
    text = f"{name}[{','.join(map(str, dims))}]{{{','.join(map(str, order))}:T(8,128)S(1)}}"
    (array,) = parse_arrays(text)
    padded = list(dims)
    padded[order[0]] += -dims[order[0]] % 128
    padded[order[1]] += -dims[order[1]] % 8
    assert array.bytes == math.prod(dims) * width and array.allocated == math.prod(padded) * width
    assert array.space == 1 and str(array) == text.partition("{")[0]


def test_tuples_and_tokens():
    arrays = parse_arrays("(f32[2,3]{1,0}, (s32[], token[]), bf16[768]{0:T(1024)(128)(2,1)})")
    assert [str(a) for a in arrays] == ["f32[2,3]", "s32[]", "token[]", "bf16[768]"]
    assert [a.allocated for a in arrays] == [24, 4, 0, 2048]


def test_loops_are_multiplied_out_and_lines_are_found():
    module = Module(GOLDEN)
    assert module.runs["wide.region_0.1_spmd.sunk"] == 6 and module.runs["fused_computation.3.clone.1"] == 6
    assert "fused_computation.3.clone.1" in module.fused and not module.unknown_loops
    assert module.runs["region_2.3"] == 0  # a reduction's own function is no work of its own
    tanh = module.computations["fused_computation.3.clone.1"]["tanh.6"]
    assert module.source(tanh) == "/repo/layers.py:10 f"
    assert module.origin("get-tuple-element.16").op == "get-tuple-element"


def test_lines_of_this_package_are_found_where_it_is_installed(monkeypatch):
    installed = "/usr/lib/python3/site-packages/"
    monkeypatch.setattr(hlo, "ROOT", installed)
    monkeypatch.setattr(hlo, "PACKAGE", f"{installed}bigcl/")
    for folder, line in (("bigcl/towers", "bigcl/towers/layers.py:10 f"), ("flax", "")):
        module = Module(GOLDEN.replace("/repo/layers.py", f"{installed}{folder}/layers.py"))
        assert module.source(module.computations["fused_computation.3.clone.1"]["tanh.6"]) == line


def test_collectives_are_counted_with_their_axes():
    gathered, reduced = summarize(read_collectives(Module(GOLDEN), MESH))
    assert (gathered.kind, gathered.axes, gathered.count) == ("all-gather", ("tensor",), 6)
    assert gathered.bytes == 6 * 3 * (32 * 256 * 2)  # three quarters come from elsewhere
    assert (reduced.kind, reduced.axes, reduced.bytes) == ("all-reduce", ("data", "tensor"), 2 * 7 / 8 * 4)


def test_of_several_arrays_in_one_collective_the_largest_comes_first():
    entry = """ENTRY %main (a: f32[2], b: bf16[1024]) -> (f32[2], bf16[1024]) {
  %a = f32[2]{0} parameter(0)
  %b = bf16[1024]{0} parameter(1)
  ROOT %r = (f32[2]{0}, bf16[1024]{0}) all-reduce(%a, %b), channel_id=1, replica_groups={{0,1}}, to_apply=%add
}
"""
    (reduced,) = summarize(read_collectives(Module("HloModule m\n\n" + entry), {"data": 2}))
    assert reduced.shapes[0] == "bf16[1024]" and len(reduced.shapes) == 4


def test_what_stays_on_the_chip_is_no_traffic():
    weights, x = 6 * 1024 * 256 * 4, 32 * 1024 * 4  # read once each; all else is in fast memory
    assert weights + x <= hbm_bytes(Module(GOLDEN)) <= weights + x + 2**14


def test_parts_of_one_collective_in_several_kernels_are_one():
    kernel = """%part.{n} (p.{n}: f32[4]) -> f32[8] {{
  %p.{n} = f32[4]{{0}} parameter(0)
  ROOT %all-gather.{n} = f32[8]{{0}} all-gather(%p.{n}), channel_id=1, replica_groups={{{{0,1}}}}, dimensions={{0}}
}}

"""
    entry = """ENTRY %main (x: f32[4]) -> f32[8] {
  %x = f32[4]{0} parameter(0)
  %start = f32[8]{0} fusion(%x), kind=kCustom, calls=%part.1
  ROOT %done = f32[8]{0} fusion(%x), kind=kCustom, calls=%part.2
}
"""
    module = Module("HloModule m\n\n" + kernel.format(n=1) + kernel.format(n=2) + entry)
    (one,) = read_collectives(module, {"data": 2})
    assert (one.count, one.bytes) == (1, 16)


@pytest.mark.parametrize("length", [1, 3, 7])
def test_trips_of_nested_loops_on_this_machine(length):
    def outer(c, _):
        return jax.lax.scan(lambda c, _: (jnp.sin(c), None), c, length=5)[0], None

    module = compiled(lambda x: jax.lax.scan(outer, x, length=length)[0], (256,))
    sines = [module.runs[name] for name, i in module.instructions() if i.op == "sine"]
    assert sum(sines) == 5 * length and not module.unknown_loops


def test_traffic_of_kernels():
    n = 4096
    assert hbm_bytes(compiled(lambda x: x + 1, (n,))) == 2 * 4 * n
    scanned = compiled(lambda x, w: jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0], (8, 64), (100, 64, 64))
    layer = 64 * 64 * 4
    assert 100 * layer <= hbm_bytes(scanned) < 8 * 100 * layer  # not all layers at each of the 100


@st.composite
def groups(draw):
    """A mesh, some of its axes, and the groups of devices along them."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    mesh = {f"a{i}": n for i, n in enumerate(sizes)}
    over = draw(st.lists(st.sampled_from(list(mesh)), unique=True, min_size=1))
    order = [*(a for a in mesh if a not in over), *over]
    transposed = np.arange(math.prod(sizes)).reshape(sizes).transpose([list(mesh).index(a) for a in order])
    return mesh, over, transposed.reshape(-1, math.prod(mesh[a] for a in over)), order


@given(groups())
def test_every_way_to_write_groups_gives_the_same(example):
    mesh, over, expected, order = example
    lists = "{" + ",".join("{" + ",".join(map(str, g)) + "}" for g in expected.tolist()) + "}"
    shape, source = ",".join(map(str, expected.shape)), ",".join(map(str, mesh.values()))
    iota = f"[{shape}]<=[{source}]T({','.join(str(list(mesh).index(a)) for a in order)})"
    sizes, axes = (",".join(f"'{a}'={n}" for a, n in mesh.items()), ",".join(f"'{a}'" for a in over))
    named = f"mesh[{sizes}] {{{axes}}}"
    for text in (lists, iota, named):
        np.testing.assert_array_equal(parse_groups(f"channel_id=1, replica_groups={text}, dimensions={{0}}"), expected)
    assert set(axes_of(expected, mesh)) == {a for a in over if mesh[a] > 1}


def test_no_groups_are_all_devices():
    assert parse_groups("channel_id=1, replica_groups={}") is None
    assert axes_of(None, {"data": 8, "fsdp": 1}) == ("data",)


@pytest.mark.parametrize("text", ["", "HloModule m\n\n%f (x: f32[]) -> f32[] {\n}\n"])
def test_text_without_a_program_is_an_error(text):
    with pytest.raises(ValueError, match="no ENTRY"):
        Module(text)

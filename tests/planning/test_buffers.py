"""The reader of buffer assignments."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigcl.planning.buffers import Value, at_peak, covered, parse_buffers

ASSIGNMENT = """BufferAssignment:
allocation 0: size 4096, parameter 0, shape |f32[1024]| at ShapeIndex {}, maybe-live-out:
 value: <1 x @0> (size=4096,offset=0): f32[1024]{0}
allocation 1: size 4, thread-local:
 value: <2 y @0> (size=4,offset=0): f32[]
allocation 2: size 64, maybe-live-out:
 value: <3 z @0> (size=64,offset=0): f32[16]{0}
allocation 3: size 512, color 1, preallocated-temp:
 value: <4 fast @1> (size=512,offset=0): f32[128]{0:S(1)}
allocation 4: size 300, preallocated-temp:
 value: <5 early @0> (size=200,offset=0): f32[50]{0}
 value: <6 pair{1} @0> (size=100,offset=200): f32[25]{0}
 value: <7 late (phi) @0> (size=300,offset=0): f32[75]{0}
 value: <8 inside @0> (size=40,offset=10): f32[10]{0}
"""
RANGES = """HloLiveRange (max 30):
  BufferLiveRange:
    early{}:1-5
    pair{1}:3-9
    late{}:10-12
    inside{}:2-4
"""


def test_allocations_and_what_lies_in_them():
    buffers = parse_buffers(ASSIGNMENT, RANGES)
    assert (buffers.arguments, buffers.outputs, buffers.temporaries, buffers.peak) == (4096, 64, 300, 4460)
    assert [(v.name, v.offset, v.size, v.start, v.end) for v in buffers.values] == [
        ("early", 0, 200, 1, 5),
        ("pair", 200, 100, 3, 9),
        ("late", 0, 300, 10, 12),
        ("inside", 10, 40, 2, 4),
    ]


def test_another_format_is_an_error():
    with pytest.raises(ValueError, match="no allocation"):
        parse_buffers("allocation #1 {}", "")


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 40), st.integers(0, 20), st.integers(0, 20))))
def test_the_peak_covers_as_much_as_any_moment(drawn):
    values = [Value(str(i), o, n, "f32[]", s, s + d) for i, (o, n, s, d) in enumerate(drawn)]
    union = {
        t: {b for v in values if v.start <= t <= v.end for b in range(v.offset, v.offset + v.size)} for t in range(41)
    }
    assert covered(at_peak(values)) == max(map(len, union.values()))

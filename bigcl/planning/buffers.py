"""Reads XLA's dump of its buffer assignment: what the arguments take, what the temporaries take, and which arrays are
there when they take most."""

import collections
import dataclasses
import re
from collections.abc import Sequence

from bigcl.planning.hlo import Instruction, Module, parse_arrays

ALLOCATION = re.compile(r"allocation \d+: size (\d+)(?:, color (\d+))?(.*)")
VALUE = re.compile(r" value: <\d+ (\S+?)(\{[\d,]*\})?(?: \(phi\))? @\d+> \(size=(\d+),offset=(\d+)\): (.*)")
RANGE = re.compile(r"\s+(\S+?)(\{[\d,]*\}):(\d+)-(\d+)$", flags=re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Value:
    """An array of the arena of temporaries: where it lies, and from when to when in the order of the program."""

    name: str
    offset: int
    size: int
    shape: str
    start: int
    end: int


@dataclasses.dataclass(frozen=True)
class Temporary:
    """Arrays of one shape, made by one operation, that are there when temporaries take most memory.

    bytes: of all `count` together.
    """

    bytes: int
    count: int
    shape: str
    op: str
    source: str


@dataclasses.dataclass(frozen=True)
class Buffers:
    """Bytes of the memory of one chip.

    arguments: state and batch.  outputs: results that do not take the place of arguments.  temporaries: the arena of
    everything else.  values: what is in the arena.
    """

    arguments: int
    outputs: int
    temporaries: int
    values: Sequence[Value]

    @property
    def peak(self) -> int:
        """What the program needs: everything is reserved before it begins."""
        return self.arguments + self.outputs + self.temporaries


def parse_buffers(assignment: str, live_ranges: str) -> Buffers:
    """From the texts of the dumps `buffer-assignment` and `live-range`."""
    ranges = {(n, i): (int(a), int(b)) for n, i, a, b in RANGE.findall(live_ranges)}
    sizes = {"parameter": 0, "preallocated-temp": 0, "maybe-live-out": 0}
    values, inside = [], False
    for line in assignment.splitlines():
        if allocation := ALLOCATION.match(line):
            kinds = [k for k in sizes if re.search(rf", {k}\b", allocation[3])] if not allocation[2] else []
            inside = kinds[:1] == ["preallocated-temp"]
            for kind in kinds[:1]:  # an argument whose place a result takes is an argument
                sizes[kind] += int(allocation[1])
        elif inside and (value := VALUE.match(line)):
            name, index, size, offset, shape = value.groups()
            start, end = ranges.get((name, index or "{}"), (0, -1))
            values.append(Value(name, int(offset), int(size), shape, start, end))
    if not any(sizes.values()):
        raise ValueError("buffer assignment: no allocation found")
    return Buffers(sizes["parameter"], sizes["maybe-live-out"], sizes["preallocated-temp"], values)


def at_peak(values: Sequence[Value]) -> list[Value]:
    """The arrays that are live when they cover most of the arena, one for each place, the largest first."""

    def live(time: int) -> list[Value]:
        return [v for v in values if v.start <= time <= v.end]

    times = sorted({v.start for v in values if v.end >= v.start})
    fullest = max(times, key=lambda t: covered(live(t)), default=0)
    places = {(v.offset, v.size): v for v in live(fullest)}
    return sorted(places.values(), key=lambda v: -v.size)


def covered(values: Sequence[Value]) -> int:
    """Bytes that arrays cover together; some lie in one another."""
    total = end = 0
    for v in sorted(values, key=lambda v: v.offset):
        total += max(0, v.offset + v.size - max(v.offset, end))
        end = max(end, v.offset + v.size)
    return total


def largest(buffers: Buffers, module: Module, count: int = 10) -> list[Temporary]:
    """The largest temporaries at the peak, with the source line of whatever writes to their place."""
    together: dict[tuple[str, str, str], list[int]] = collections.defaultdict(list)
    for v in at_peak(buffers.values):
        shape = parse_arrays(v.shape)
        writer = find_writer(v, buffers.values, module)
        op = re.search(r'op_name="([^"]*)"', writer.text) if writer else None
        key = (str(shape[0]) if shape else v.shape, op[1] if op else "", module.source(writer) if writer else "")
        together[key].append(v.size)
    merged = [Temporary(sum(sizes), len(sizes), *key) for key, sizes in together.items()]
    return sorted(merged, key=lambda t: -t.bytes)[:count]


def find_writer(v: Value, values: Sequence[Value], module: Module) -> Instruction | None:
    """An instruction with a source line whose result is this array, or lies in its place at the same time (the state of
    a loop is written inside it)."""
    place = (w for w in values if (w.offset, w.size) == (v.offset, v.size) and w.start <= v.end and v.start <= w.end)
    origins = (module.origin(w.name) for w in (v, *place))
    return next((i for i in origins if i is not None and module.source(i)), None)

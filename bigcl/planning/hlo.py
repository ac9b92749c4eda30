"""Reads XLA's optimized HLO text: the instructions of each computation, how often it runs, and the source lines.

XLA's own cost analysis counts the body of a loop once; here it is multiplied by the loop's trips.
"""

import collections
import dataclasses
import functools
import math
import pathlib
import re
from collections.abc import Iterator, Mapping

PACKAGE = f"{pathlib.Path(__file__).parent.parent}/"
ROOT = PACKAGE.removesuffix("bigcl/")
INSTALLED = re.compile("/(site|dist)-packages/")
ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
HEADER = re.compile(r"(ENTRY )?%?([^\s(]+) \(.*\{$")
INSTRUCTION = re.compile(r"\s+(ROOT )?%?(\S+) = (.*)")


@dataclasses.dataclass(frozen=True)
class Array:
    """An array in memory space `space` (0 is HBM): the bytes of its elements, and `allocated` with the padding of its
    tiles."""

    dtype: str
    dims: tuple[int, ...]
    bytes: int
    allocated: int
    space: int = 0

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of HLO. `results` are the arrays of its value, flattened."""

    name: str
    op: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    text: str
    root: bool

    def called(self, key: str) -> str:
        """The computation that the attribute `key` names."""
        found = re.search(rf"\b{key}=%?([\w.\-]+)", self.text)
        return found[1] if found else ""


def parse_arrays(text: str) -> tuple[Array, ...]:
    """The arrays of a shape such as `(f32[8,128]{1,0:T(8,128)}, s32[])`."""
    arrays = []
    for dtype, dims, layout in ARRAY.findall(text):
        shape = tuple(int(d.strip("<=")) for d in dims.split(",") if d)
        order, _, tiling = layout.partition(":")
        space = re.search(r"S\((\d+)\)", tiling)
        padded = list(shape)
        if (tile := re.search(r"T\(([\d,]+)\)", tiling)) and shape:
            minor_first = [int(i) for i in order.split(",")]
            for axis, size in zip(minor_first, reversed(tile[1].split(",")), strict=False):
                padded[axis] = -(-padded[axis] // int(size)) * int(size)
        width = bits(dtype)
        array = Array(dtype, shape, math.prod(shape) * width // 8, math.prod(padded) * width // 8)
        arrays.append(dataclasses.replace(array, space=int(space[1])) if space else array)
    return tuple(arrays)


def bits(dtype: str) -> int:
    """Bits of one element: "bf16", "f8e4m3fn", "s4", "pred"."""
    digits = re.search(r"\d+", dtype)
    return int(digits[0]) if digits else 8 * (dtype == "pred")  # tokens and the like are nothing


def closing(text: str) -> int:
    """Index of the parenthesis that closes the one that `text` begins with."""
    depth = 0
    for i, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if depth == 0:
            return i
    raise ValueError(f"HLO: no closing parenthesis in {text[:80]!r}")


def parse_instruction(line: str) -> Instruction | None:
    """One line inside a computation, or None if it is none."""
    match = INSTRUCTION.match(re.sub(r"/\*.*?\*/", "", line))
    if not match:
        return None
    rest = match[3]
    end = closing(rest) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].strip()
    op, _, rest = rest.partition("(")
    end = closing("(" + rest) - 1
    operands = re.findall(r"%([\w.\-]+)", rest[:end])
    return Instruction(match[2], op, parse_arrays(shape), tuple(operands), rest, bool(match[1]))


class Module:
    """A program as XLA leaves it.

    computations: instructions by computation and name, the entry last.  runs: how often each computation runs in one
    step.  unknown_loops: loops whose trips could not be read, and count as one.
    """

    def __init__(self, text: str):
        head, self.computations = text[: max(text.find("\n%"), 0)], parse_computations(text)
        self.frames = Frames(head)
        self.owners = {name: c for c, instructions in self.computations.items() for name in instructions}
        self.unknown_loops: list[str] = []
        self.fused: set[str] = set()
        self.runs = self.count_runs()

    def count_runs(self) -> dict[str, float]:
        """How often each computation runs: callers come after what they call, so from the entry backwards."""
        runs: dict[str, float] = collections.defaultdict(float)
        names = list(self.computations)
        runs[names[-1]] = 1.0
        for name in reversed(names):
            for i in self.computations[name].values() if runs[name] else ():
                for callee, times, fused in self.callees(name, i):
                    runs[callee] += times * runs[name]
                    if fused or name in self.fused:
                        self.fused.add(callee)
        return runs

    def callees(self, computation: str, i: Instruction) -> Iterator[tuple[str, float, bool]]:
        """Computations that an instruction runs, how often, and whether inside one kernel."""
        if i.op == "while":
            trips = self.trips(computation, i)
            yield i.called("body"), trips, False
            yield i.called("condition"), trips + 1, False
        elif i.op == "conditional":
            names = re.findall(r"%([\w.\-]+)", "".join(re.findall(r"branch_computations=\{(.*?)\}", i.text)))
            for name in names or [i.called("true_computation"), i.called("false_computation")]:
                yield name, 1.0, False
        elif i.op in ("call", "async-start"):
            yield i.called("to_apply") or i.called("calls"), 1.0, False
        elif i.op == "fusion":
            yield i.called("calls"), 1.0, True

    def trips(self, computation: str, loop: Instruction) -> float:
        """Trips of a loop: as XLA notes them, else from the constant that its counter is compared with."""
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.text):
            return float(known[1])
        condition, body = (self.computations[loop.called(k)] for k in ("condition", "body"))
        test = next(i for i in condition.values() if i.root)
        found = [self.counter(condition, name) for name in test.operands]
        counters = [index for index, _ in found if index is not None]
        start = [self.initial(computation, loop, k) for k in counters]
        ends = [value for _, value in found if value is not None]
        if len(found) == 2 and len(counters) == 2:  # the end travels along with the counter
            ends, start = [s for s in start[1:] if s is not None], start[:1]
        step = self.step(body, counters[0]) if counters else None
        if not counters or not ends or start[0] is None or not step:
            self.unknown_loops.append(loop.name)
            return 1.0
        return float(max(0, math.ceil((ends[0] - start[0]) / step)))

    def counter(self, condition: Mapping[str, Instruction], name: str) -> tuple[int | None, int | None]:
        """What a condition compares: an element of the loop's state, by index, or a constant."""
        i = through_copies(condition, name)
        if i.op == "get-tuple-element":
            return index_of(i), None
        return None, constant(i)

    def initial(self, computation: str, loop: Instruction, index: int) -> int | None:
        """The value that an element of a loop's state starts with, if it is a constant."""
        instructions = self.computations[computation]
        state = through_copies(instructions, loop.operands[0])
        if state.op != "tuple":
            return None
        return constant(through_copies(instructions, state.operands[index]))

    def step(self, body: Mapping[str, Instruction], index: int) -> int | None:
        """What a loop adds to its counter at each trip."""
        root = next(i for i in body.values() if i.root)
        if root.op != "tuple":
            return None
        added = through_copies(body, root.operands[index])
        if added.op == "fusion":
            inner = self.computations[added.called("calls")]
            return next((abs(c) for i in inner.values() if i.op == "constant" and (c := constant(i))), 1)
        values = [constant(through_copies(body, name)) for name in added.operands]
        return next((v for v in values if v), 1)

    def instructions(self) -> Iterator[tuple[str, Instruction]]:
        """Every instruction that runs, with its computation."""
        for name, instructions in self.computations.items():
            if self.runs[name]:
                yield from ((name, i) for i in instructions.values())

    def origin(self, name: str) -> Instruction | None:
        """The nearest instruction from which a value comes that has a source line."""
        seen: set[str] = set()
        while name in self.owners and name not in seen:
            seen.add(name)
            i = self.computations[self.owners[name]][name]
            if self.source(i) or not i.operands:
                return i
            name = i.operands[0]
        return None

    def source(self, i: Instruction) -> str:
        """`file:line function` of the program that an instruction comes from, "" where it does not say."""
        frame = re.search(r"stack_frame_id=(\d+)", i.text)
        return self.frames.line(int(frame[1])) if frame else ""


def parse_computations(text: str) -> dict[str, dict[str, Instruction]]:
    """Instructions by computation and name, in the order of the text, the entry last."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if header := HEADER.match(line):
            current = computations.setdefault(header[2], {})
            entry = header[2] if header[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (i := parse_instruction(line)):
            current[i.name] = i
    if not entry:
        raise ValueError("HLO: no ENTRY computation")
    computations[entry] = computations.pop(entry)
    return computations


def through_copies(instructions: Mapping[str, Instruction], name: str) -> Instruction:
    """The instruction that a value comes from, through what only hands it on."""
    i = instructions[name]
    while i.op in ("copy", "bitcast", "convert", "copy-done", "copy-start") and i.operands[0] in instructions:
        i = instructions[i.operands[0]]
    return i


def constant(i: Instruction) -> int | None:
    """The value of an integer constant."""
    found = re.match(r"(-?\d+)\)", i.text) if i.op == "constant" else None
    return int(found[1]) if found else None


def index_of(i: Instruction) -> int:
    """Which element a `get-tuple-element` takes."""
    return int(re.search(r"index=(\d+)", i.text)[1])  # type: ignore[index]  # it always says


class Frames:
    """The tables of source lines at the head of a module."""

    def __init__(self, head: str):
        sections = re.split(r"^(FileNames|FunctionNames|FileLocations|StackFrames)$", head, flags=re.MULTILINE)
        tables = dict(zip(sections[1::2], sections[2::2], strict=True))
        numbered = {k: dict(re.findall(r"^(\d+) (.*)$", v, flags=re.MULTILINE)) for k, v in tables.items()}
        self.files, self.functions, self.locations, self.frames = (
            numbered.get(k, {}) for k in ("FileNames", "FunctionNames", "FileLocations", "StackFrames")
        )

    @functools.cache  # noqa: B019, lives as long as its module
    def line(self, frame: int) -> str:
        """The innermost place of a frame that is not in an installed package, or is in this one."""
        while frame:
            fields = dict(re.findall(r"(\w+)=(\d+)", self.frames.get(str(frame), "")))
            place = dict(re.findall(r"(\w+)=(\d+)", self.locations.get(fields.get("file_location_id", ""), "")))
            file = self.files.get(place.get("file_name_id", ""), "").strip('"')
            if file and (file.startswith(PACKAGE) or not INSTALLED.search(file)):
                function = self.functions.get(place["function_name_id"], "").strip('"')
                return f"{file.removeprefix(ROOT)}:{place['line']} {function.split('.<locals>')[0]}"
            frame = int(fields.get("parent_frame_id", 1)) - 1  # written one too high
        return ""

"""What goes over the links between devices: the collectives of a compiled program, their mesh axes, and their bytes."""

import collections
import dataclasses
import math
import re
from collections.abc import Iterable, Mapping

import numpy as np

from bigcl.planning.hlo import Instruction, Module

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
GROUPS = re.compile(
    r"(?:replica_groups|source_target_pairs)="
    r"(?P<text>mesh\[.*?\] \{.*?\}|\[[\d,]+\]<=\[[\d,]+\](?:T\([\d,]+\))?|\{(?:\{[\d,]*\},?)*\})"
)


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective, or all of one kind over the same axes.

    bytes: what one chip sends, each step.  count: how often, each step.
    shapes: what goes in and comes out, the largest first.
    dcn: whether it goes over the network between slices.  route: of a permutation, who sends to whom, as HLO writes it.
    """

    kind: str
    axes: tuple[str, ...]
    count: float
    bytes: float
    shapes: tuple[str, ...] = ()
    source: str = ""
    dcn: bool = False
    route: str = ""


def read_collectives(module: Module, mesh: Mapping[str, int]) -> list[Collective]:
    """All collectives of a program on a mesh (sizes by axis); those that move nothing are left out."""
    found: dict[tuple[str, str], Collective] = {}
    for computation, i in module.instructions():
        kind, times = i.op.removesuffix("-start"), module.runs[computation]
        key = (computation, i.name)
        if i.op == "send" and "megascale" in i.text:
            one = between_slices(module, i, times)
        elif kind in KINDS:
            if "all-reduce-scatter" in computation:  # how TPUs are told to reduce and scatter at once
                kind = "reduce-scatter"
            channel = re.search(r"channel_id=(\d+)", i.text)
            if computation in module.fused and channel:  # spread over kernels that compute something else meanwhile
                key = (kind, channel[1])
            one = within_slice(module, computation, i, kind, times, mesh)
        else:
            continue
        if key not in found or one.count < found[key].count:
            found[key] = one
    return [c for c in found.values() if c.bytes]


def within_slice(
    module: Module, computation: str, i: Instruction, kind: str, times: float, mesh: Mapping[str, int]
) -> Collective:
    """What one chip sends by the usual ring algorithms: n - 1 of n parts, twice that to reduce to all."""
    sent = [a for name in i.operands for a in module.computations[computation][name].results]
    groups = parse_groups(i.text)
    n = math.prod(mesh.values()) if groups is None else groups.shape[1]
    factors = {"all-gather": n - 1, "all-reduce": 2 * (n - 1) / n, "collective-broadcast": 1, "collective-permute": 1}
    factor = factors.get(kind, (n - 1) / n)
    if kind == "collective-permute" and groups is not None and (groups[:, 0] == groups[:, 1]).all():
        factor = 0
    return Collective(
        kind,
        axes_of(groups, mesh),
        times,
        times * factor * sum(a.bytes for a in sent),
        tuple(str(a) for a in sorted((*sent, *i.results), key=lambda a: -a.bytes)),
        module.source(i),
        route=route(i.text),
    )


def between_slices(module: Module, i: Instruction, times: float) -> Collective:
    """What one chip hands to its host for the other slices."""
    kind = re.search(r'_xla_megascale_transfer_type="(\w+)"', i.text)
    kinds = {"ONE_TO_ONE": "collective-permute"}
    name = kind[1] if kind else "send"
    sent = i.results[0]
    return Collective(
        kinds.get(name, name.lower().replace("_", "-")),
        ("replica",),
        times,
        times * sent.bytes,
        (str(sent),),
        module.source(i),
        dcn=True,
        route=route(i.text),
    )


def route(text: str) -> str:
    """Who sends to whom in a permutation; "" for anything else."""
    pairs = re.search(r"(?:source_target_pairs|_xla_megascale_target)=(\{\{.*?\}\})", text)
    return pairs[1] if pairs else ""


def parse_groups(text: str) -> np.ndarray | None:
    """Devices that take part together, `[groups, devices]`, from any of the ways in which HLO writes them; None: all
    devices are one group.

    Lists `{{0,1},{2,3}}`; iota `[2,4]<=[4,2]T(1,0)`; named axes `mesh['a'=2,'b'=4] {'b'}`.
    """
    found = GROUPS.search(text)
    if not found:
        return None
    text = found["text"]
    if text.startswith("mesh"):
        sizes = {k: int(v) for k, v in re.findall(r"'(\w+)'=(\d+)", text)}
        over = re.findall(r"'(\w+)'", text[text.index("{") :])
        names = [*(k for k in sizes if k not in over), *over]
        grid = np.arange(math.prod(sizes.values())).reshape(tuple(sizes.values()))
        return grid.transpose([list(sizes).index(k) for k in names]).reshape(-1, math.prod(sizes[k] for k in over))
    if text.startswith("["):
        shape, source, *order = ([int(x) for x in part.split(",")] for part in re.findall(r"[\d,]*\d", text))
        grid = np.arange(math.prod(source)).reshape(source)
        return (grid.transpose(order[0]) if order else grid).reshape(shape)
    lists = [[int(x) for x in g.split(",")] for g in re.findall(r"\{([\d,]+)\}", text)]
    return np.array(lists) if lists else None


def axes_of(groups: np.ndarray | None, mesh: Mapping[str, int]) -> tuple[str, ...]:
    """The mesh axes along which the devices of a group differ. Devices are numbered in the order of the mesh."""
    if groups is None:
        return tuple(a for a, n in mesh.items() if n > 1)
    places = np.stack(np.unravel_index(groups, tuple(mesh.values())))  # [axes, groups, devices]
    differ = (places != places[:, :, :1]).any((1, 2))
    return tuple(a for a, d in zip(mesh, differ, strict=True) if d)


def summarize(found: Iterable[Collective]) -> list[Collective]:
    """One entry for each kind and axes, the largest first; its shape and source are those of its largest part."""
    together: dict[tuple[str, tuple[str, ...], bool], list[Collective]] = collections.defaultdict(list)
    for c in sorted(found, key=lambda c: -c.bytes):
        together[c.kind, c.axes, c.dcn].append(c)
    totals = [
        dataclasses.replace(cs[0], count=sum(c.count for c in cs), bytes=sum(c.bytes for c in cs), route="")
        for cs in together.values()
    ]
    return sorted(totals, key=lambda c: -c.bytes)

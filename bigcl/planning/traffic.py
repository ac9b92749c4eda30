"""How many bytes a compiled program moves between HBM and the compute units of a chip."""

import re
from collections.abc import Iterator, Mapping

from bigcl.planning.collectives import KINDS
from bigcl.planning.hlo import Array, Instruction, Module

FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call"),
    *("after-all", "partition-id", "replica-id", "opt-barrier", "async-start", "async-update"),
}
"""Operations that move nothing themselves."""


def hbm_bytes(module: Module) -> float:
    """Bytes of HBM that one chip reads and writes in a step: operands and results of every kernel, once for each time
    that it runs. What a kernel takes as a slice of an array, or writes into it in place, counts with the slice."""
    return sum(
        module.runs[name] * moved(module, module.computations[name], i)
        for name, i in module.instructions()
        if name not in module.fused and i.op not in FREE and not i.op.endswith("-done")
    )


def moved(module: Module, siblings: Mapping[str, Instruction], i: Instruction) -> int:
    """Bytes that one run of an instruction reads and writes."""
    if i.op == "fusion":
        inner = module.computations[i.called("calls")]
        parameters = sorted((p for p in inner.values() if p.op == "parameter"), key=lambda p: int(p.text.split(")")[0]))
        kept, taken = passed_on(i, inner)
        read = sum(
            read_of(siblings[name], list(uses(inner, p.name)))
            for k, (name, p) in enumerate(zip(i.operands, parameters, strict=True))
            if k not in taken
        )
        return read + sum(n for k, n in enumerate(written(inner, i)) if k not in kept)
    if i.op in ("dynamic-slice", "gather", "dynamic-update-slice", "scatter"):
        part = siblings[i.operands[1 if i.op == "dynamic-update-slice" else -1]]
        results = part.results if i.op in ("dynamic-update-slice", "scatter") else i.results
        return 2 * in_hbm(results)
    read = sum(in_hbm(siblings[name].results) for name in i.operands if name in siblings)
    results = i.results[:1] if i.op == "copy-start" else i.results
    if i.op != "copy-start" and i.op.endswith("-start"):  # operands, then results
        results = i.results[len(i.operands) : 2 * len(i.operands)]
    return read + in_hbm(results)


def passed_on(fusion: Instruction, inner: Mapping[str, Instruction]) -> tuple[set[int], set[int]]:
    """Results and operands of a fusion that only travel through it: the buffers of a collective that it does a part
    of."""
    if not any(i.op in KINDS for i in inner.values()):
        return set(), set()
    aliases = re.search(r"output_to_operand_aliasing=\{(.*?\)) ?\}", fusion.text)
    pairs = re.findall(r"\{(\d*)\}: \((\d+),", aliases[1]) if aliases else []
    return {int(k or 0) for k, _ in pairs}, {int(k) for _, k in pairs}


def in_hbm(arrays: tuple[Array, ...]) -> int:
    """Bytes of those arrays that are in HBM."""
    return sum(a.allocated for a in arrays if a.space == 0)


def uses(inner: Mapping[str, Instruction], name: str) -> Iterator[tuple[Instruction, int]]:
    """Who uses a value in a fusion, and as which operand; what only gives it another shape is looked through."""
    for i in inner.values():
        for k, operand in enumerate(i.operands):
            if operand == name and i.op in ("bitcast", "reshape"):
                yield from uses(inner, i.name)
            elif operand == name:
                yield i, k


def read_of(operand: Instruction, users: list[tuple[Instruction, int]]) -> int:
    """Bytes that a fusion reads of an operand."""
    whole = in_hbm(operand.results)
    slices = [u for u, k in users if k == 0 and u.op in ("dynamic-slice", "gather", "slice")]
    in_place = [u for u, k in users if k == 0 and u.op == "dynamic-update-slice"]
    if not users or len(slices) + len(in_place) < len(users):
        return whole
    return min(whole, sum(a.allocated for u in slices for a in u.results))


def written(inner: Mapping[str, Instruction], fusion: Instruction) -> Iterator[int]:
    """Bytes that a fusion writes, for each of its results."""
    root = next(i for i in inner.values() if i.root)
    roots = [inner[name] for name in root.operands] if root.op == "tuple" else [root]
    for array, i in zip(fusion.results, roots, strict=False):
        while i.op == "bitcast" and i.operands[0] in inner:
            i = inner[i.operands[0]]
        if i.op == "dynamic-update-slice" and array.space == 0:
            yield sum(a.allocated for a in inner[i.operands[1]].results)
        elif i.op != "parameter":
            yield in_hbm((array,))

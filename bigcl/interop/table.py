"""One table of names serves both directions, strictly.

A row says that an outside tensor is an array of bigcl, or a part of it, with its entries in another order. Orders are
undone by numbering the entries, so no row can be right in one direction and wrong in the other. Whatever either side
has and the other lacks is listed, and nothing is converted.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

Arrays = Mapping[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]
Layout = Callable[[np.ndarray], np.ndarray]


class Mismatch(ValueError):
    """Weights that do not fit; the message lists every difference."""


def same(x: np.ndarray) -> np.ndarray:
    """No other order."""
    return x


def flat(x: np.ndarray) -> np.ndarray:
    """`[...]` as one vector."""
    return x.reshape(-1)


def batched(x: np.ndarray) -> np.ndarray:
    """A leading axis of length 1."""
    return x[None]


def dense(x: np.ndarray) -> np.ndarray:
    """A kernel `[in, out...]` as `[out, in]`, the axes of the output joined."""
    return x.reshape(x.shape[0], -1).T


def dense_from_heads(x: np.ndarray) -> np.ndarray:
    """A kernel `[heads, head, out]` as `[out, in]`."""
    return x.reshape(-1, x.shape[-1]).T


def convolution(x: np.ndarray) -> np.ndarray:
    """Square patches of three channels: `[patch * patch * 3, out]` as `[out, 3, patch, patch]`."""
    side = math.isqrt(len(x) // 3)
    return x.reshape(side, side, 3, -1).transpose(3, 2, 0, 1)


def channels_first(x: np.ndarray) -> np.ndarray:
    """The kernel of a convolution, `[h, w, in, out]` as `[out, in, h, w]`."""
    return x.transpose(3, 2, 0, 1)


class Row(NamedTuple):
    """An outside tensor and where bigcl has it.

    name: the outside name; `*` is the number of a layer, which bigcl has as the leading axis of one stacked array.
    path: in the task.
    layout: bigcl's array, or its part, to the outside order.
    part: which of queries, keys and values; None for all, or where there are none.
    """

    name: str
    path: str
    layout: Layout = same
    part: int | slice | None = None


Table = tuple[Row, ...]
Q, K, V, KV = 0, 1, 2, slice(1, 3)


def norm(name: str, path: str) -> Table:
    """A layer norm."""
    return Row(f"{name}.weight", f"{path}/scale"), Row(f"{name}.bias", f"{path}/bias")


def linear(name: str, path: str) -> Table:
    """A dense layer."""
    return Row(f"{name}.weight", f"{path}/kernel", dense), Row(f"{name}.bias", f"{path}/bias")


def into_heads(name: str, path: str, part: int | slice | None = None) -> Table:
    """A dense layer to queries, keys, values, or several of them."""
    return Row(f"{name}.weight", f"{path}/qkv", dense, part), Row(f"{name}.bias", f"{path}/qkv_bias", flat, part)


def from_heads(name: str, path: str) -> Table:
    """The dense layer after the heads."""
    return Row(f"{name}.weight", f"{path}/out", dense_from_heads), Row(f"{name}.bias", f"{path}/out_bias")


def multihead(name: str, path: str) -> Table:
    """`torch.nn.MultiheadAttention`."""
    fused = (
        Row(f"{name}.in_proj_weight", f"{path}/qkv", dense),
        Row(f"{name}.in_proj_bias", f"{path}/qkv_bias", flat),
    )
    return fused + from_heads(f"{name}.out_proj", path)


def under(name: str, path: str, table: Table) -> Table:
    """The same table for a module inside another."""
    return tuple(row._replace(name=f"{name}{row.name}", path=f"{path}{row.path}") for row in table)


class Piece(NamedTuple):
    """A row for one layer: the outside name, and which entries of which array it holds."""

    name: str
    path: str
    where: tuple[int | slice, ...]
    layout: Layout
    shape: tuple[int, ...]


def pieces(table: Table, shapes: Shapes) -> Iterator[Piece]:
    """What the rows for these arrays say, layer by layer; rows for arrays that are not there say nothing."""
    for name, path, layout, part in table:
        if path not in shapes:
            continue
        shape = shapes[path]
        layers: Iterable[int | None] = range(shape[0]) if "*" in name else (None,)
        for layer in layers:
            inner = shape if layer is None else shape[1:]
            where: tuple[int | slice, ...] = () if layer is None else (layer,)
            if part is not None:  # queries, keys and values lie side by side on the third axis from the end
                axis = len(inner) - 3
                where = (*where, *([slice(None)] * axis), part)
                kept = () if isinstance(part, int) else (len(range(*part.indices(inner[axis]))),)
                inner = (*inner[:axis], *kept, *inner[axis + 1 :])
            yield Piece(name.replace("*", str(layer)), path, where, layout, inner)


def outside_shapes(table: Table, shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the outside tensors for a task of these shapes."""
    return {p.name: p.layout(np.broadcast_to(np.float32(0), p.shape)).shape for p in pieces(table, shapes)}


def read(table: Table, tensors: Arrays, shapes: Shapes, *, where: str) -> dict[str, np.ndarray]:
    """Outside tensors as the float32 arrays of a task of these shapes.

    where: what the tensors are, for the message. Raises Mismatch.
    """
    differ(outside_shapes(table, shapes), {k: v.shape for k, v in tensors.items()}, where)
    check_covered(table, shapes)
    arrays = {path: np.empty(shape, np.float32) for path, shape in shapes.items()}
    for p in pieces(table, shapes):
        arrays[p.path][p.where] = undo(p.layout, tensors[p.name], p.shape)
    return arrays


def write(table: Table, arrays: Arrays) -> dict[str, np.ndarray]:
    """A task's arrays as outside tensors. Raises Mismatch if one has no place."""
    shapes = {k: v.shape for k, v in arrays.items()}
    check_covered(table, shapes)
    return {p.name: np.array(p.layout(arrays[p.path][p.where]), order="C") for p in pieces(table, shapes)}


def undo(layout: Layout, tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The array of this shape that `layout` makes into `tensor`."""
    if layout in (same, flat, batched):
        return tensor.reshape(shape)
    order = layout(np.arange(math.prod(shape)).reshape(shape))
    array = np.empty(math.prod(shape), np.float32)
    array[order.ravel()] = tensor.ravel()
    return array.reshape(shape)


def differ(wanted: Shapes, given: Shapes, where: str) -> None:
    """Raises Mismatch with all differences between the tensors wanted and those given."""
    lines = [f"  missing    {k} {s}" for k, s in wanted.items() if k not in given]
    lines += [f"  left over  {k} {s}" for k, s in given.items() if k not in wanted]
    lines += [f"  shape      {k}: {given[k]}, wanted {s}" for k, s in wanted.items() if given.get(k, s) != s]
    if lines:
        raise Mismatch(f"{where} does not fit this model:\n" + "\n".join(lines))


def check_covered(table: Table, shapes: Shapes) -> None:
    """Raises Mismatch if an entry of an array has no place outside, or several."""
    entries = dict.fromkeys(shapes, 0)
    for p in pieces(table, shapes):
        entries[p.path] += math.prod(p.shape)
    wrong = [f"  {k} {s}" for k, s in shapes.items() if entries[k] != math.prod(s)]
    if wrong:
        raise Mismatch("the target has no place for these parameters:\n" + "\n".join(wrong))

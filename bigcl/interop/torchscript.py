"""The tensors of a TorchScript archive, such as OpenAI's files of CLIP, without its code and without PyTorch.

It is a zip: `data.pkl` has the tree of modules, `data/<n>` the bytes of a storage, `code/` the classes as text, which
say what of a module is a parameter or a buffer. The tree is a pickle, but it is not unpickled: its opcodes are read one
by one into the records below, names stay names, and an opcode that PyTorch does not write into such a tree is an error.
Nothing of the code is run.
"""

import math
import pathlib
import pickletools
import re
import zipfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

STORAGES: dict[str, Any] = {
    "HalfStorage": np.float16, "FloatStorage": np.float32, "DoubleStorage": np.float64,
    "BFloat16Storage": ml_dtypes.bfloat16, "BoolStorage": np.bool_, "ByteStorage": np.uint8, "CharStorage": np.int8,
    "ShortStorage": np.int16, "IntStorage": np.int32, "LongStorage": np.int64,
}  # fmt: skip
STATE = re.compile(
    r"^class (\w+)\(Module\):\n +__parameters__ = \[(.*)\]\n(?: +__buffers__ = \[(.*)\]\n)?", re.MULTILINE
)
LARGEST = 1 << 26
"""Bytes of the tree, or of the text of a class: beyond any model, and little enough to be read at once."""
MODULES = 1 << 16


class Name(NamedTuple):
    """Of a class or a function."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Storage(NamedTuple):
    """Bytes in the archive."""

    dtype: Any
    key: str


class Tensor(NamedTuple):
    """A view of a storage; offset and strides count numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Module(NamedTuple):
    """Its class and its attributes."""

    kind: Name
    state: dict[str, Any]


TENSOR, HOOKS = Name("torch._utils", "_rebuild_tensor_v2"), Name("collections", "OrderedDict")
VALUES = ("BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT")
CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


def tree_of(data: bytes) -> Any:
    """The records that the opcodes of a tree describe (Python's `pickletools` says what each does)."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}

    def marked() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    for op, arg, _ in pickletools.genops(data):
        match op.name:
            case "GLOBAL":
                stack.append(Name(*str(arg).split(" ")))
            case "BINPUT" | "LONG_BINPUT":
                memo[arg] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[arg])
            case name if name in VALUES:
                stack.append(arg)
            case name if name in CONSTANTS:
                stack.append(CONSTANTS[name])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "MARK":
                marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(marked()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(op.name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "APPENDS":
                items = marked()
                stack[-1].extend(items)
            case "SETITEMS":
                items = marked()
                stack[-1].update(zip(items[::2], items[1::2], strict=True))
            case "BINPERSID":
                _, kind, key, *_ = stack.pop()
                stack.append(Storage(STORAGES[kind.name], key))
            case "NEWOBJ" | "REDUCE":
                args, name = stack.pop(), stack.pop()
                stack.append(made(name, args))
            case "BUILD":
                state = stack.pop()
                stack[-1].state.update(state)
            case "STOP":
                return stack.pop()
            case other if other != "PROTO":
                raise ValueError(f"its tree has the opcode {other}, which PyTorch does not write there")


def made(name: Name, args: tuple[Any, ...]) -> Any:
    """The record of what a name would make of these. Raises ValueError for a name that is of no module or tensor."""
    if name.module.partition(".")[0] == "__torch__":
        return Module(name, {})
    if name == TENSOR:
        return Tensor(*args[:4])
    if name == HOOKS:  # of which there are none
        return {}
    if name.module == "torch.jit._pickle":  # a list of numbers, say, which no state dict has
        return None
    raise ValueError(f"it holds {name}, which is no tensor")


def is_archive(path: pathlib.Path) -> bool:
    """Whether a file is a TorchScript archive: it alone has constants."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(re.fullmatch(r"[^/]+/constants\.pkl", name) for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def read(path: pathlib.Path) -> Iterator[tuple[str, np.ndarray]]:
    """Parameters and buffers by their names in the state dict. Raises whatever a damaged file makes it raise."""
    with zipfile.ZipFile(path) as archive:
        top = next(name for name in archive.namelist() if name.endswith("/constants.pkl")).partition("/")[0]
        if f"{top}/byteorder" in archive.namelist() and small(archive, f"{top}/byteorder") != b"little":
            raise ValueError("its numbers are big-endian")
        left: list[tuple[str, Module]] = [("", tree_of(small(archive, f"{top}/data.pkl")))]
        storages: dict[str, bytes] = {}
        for _ in range(MODULES):
            if not left:
                return
            prefix, module = left.pop()
            kept = state_names(archive, top, module.kind)
            for name, value in module.state.items():
                if isinstance(value, Module):
                    left.append((f"{prefix}{name}.", value))
                elif isinstance(value, Tensor) and name in kept:
                    key = value.storage.key
                    if key not in storages:
                        storages[key] = stored(archive, f"{top}/data/{key}")
                    yield f"{prefix}{name}", view(value, storages[key])
        raise ValueError(f"it has more than {MODULES:,} modules")


def small(archive: zipfile.ZipFile, name: str) -> bytes:
    """A member that is read at once."""
    if archive.getinfo(name).file_size > LARGEST:
        raise ValueError(f"{name} is larger than {LARGEST:,} bytes")
    return archive.read(name)


def stored(archive: zipfile.ZipFile, name: str) -> bytes:
    """The bytes of a storage, which are never compressed, so that they are no more than the file."""
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed")
    return archive.read(name)


def state_names(archive: zipfile.ZipFile, top: str, kind: Name) -> set[str]:
    """What of the attributes of a class is in its state dict, as the text of the class says."""
    text = small(archive, f"{top}/code/{kind.module.replace('.', '/')}.py").decode()
    for found, *lists in STATE.findall(text):
        if found == kind.name:
            return {x for names in lists for x in re.findall(r'"([^"]*)"', names)}
    raise ValueError(f"no class {kind} in its code")


def view(tensor: Tensor, data: bytes) -> np.ndarray:
    """The numbers of a tensor in the bytes of its storage. Raises ValueError for what lies outside of them."""
    dtype, shape = np.dtype(tensor.storage.dtype), tensor.shape
    if not all(type(x) is int and x >= 0 for x in (tensor.offset, *shape, *tensor.strides)):
        raise ValueError("a tensor whose sizes are no whole numbers")
    if math.prod(shape) * dtype.itemsize > len(data):  # strides of 0 make much of little
        raise ValueError(f"a tensor {shape} in {len(data)} bytes")
    strides = [stride * dtype.itemsize for stride in tensor.strides]
    return np.ndarray(shape, dtype, data, tensor.offset * dtype.itemsize, strides)

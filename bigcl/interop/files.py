"""Files of weights, read without calling anything that they name, and written as safetensors."""

import contextlib
import json
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from bigcl.interop import torchscript
from bigcl.registry import ConfigError

Tensors = dict[str, np.ndarray]

PREFERRED = ("model", "pytorch_model", "open_clip_model", "open_clip_pytorch_model")
"""Names of files of weights, the first that is there: a folder of the Hub may hold those of several libraries."""
SUFFIXES = (".safetensors", ".safetensors.index.json", ".npz", ".bin", ".pt", ".pth")


FLOATS = ("bfloat16", "float8_e4m3fn", "float8_e5m2")
"""Floats that NumPy itself does not have."""


class BadFile(ValueError):
    """A file of weights or a config that cannot be read; the message names it and says why."""


def find_weights(path: pathlib.Path, preferred: Sequence[str] = PREFERRED) -> pathlib.Path:
    """The file of weights in a folder, or the file itself. preferred: names in the order of the library that reads
    it."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"there is no {path}")
    found = sorted(p for p in path.iterdir() if p.name.endswith(SUFFIXES))
    named = [path / f"{name}{suffix}" for name in preferred for suffix in SUFFIXES]
    chosen = next((p for p in named if p in found), found[0] if len(found) == 1 else None)
    if chosen is None:
        none = "ONNX graphs, of which bigcl reads no weights" if any(path.glob("*.onnx")) else "no file of weights"
        names = ", ".join(p.name for p in found) or none
        raise FileNotFoundError(f"{path} holds {names}; give the path of one of {', '.join(SUFFIXES)}")
    return chosen


def read_tensors(path: pathlib.Path) -> Tensors:
    """The tensors of a file, or of a sharded safetensors index, in float32 where they are floats. Raises BadFile."""
    if path.name.endswith(".index.json"):
        return {k: v for shard in shards_of(path) for k, v in read_tensors(shard).items()}
    readers: dict[str, Callable[[pathlib.Path], Iterator[tuple[str, np.ndarray]]]] = {
        ".safetensors": read_safetensors,
        ".npz": read_npz,
        ".bin": read_torch,
        ".pt": read_torch,
        ".pth": read_torch,
    }
    if path.suffix not in readers:
        raise BadFile(f"{path}: unknown kind of file; known: {', '.join(readers)}")
    tensors: Tensors = {}
    for name, value in readers[path.suffix](path):
        if value.dtype.kind not in "fbiu" and value.dtype.name not in FLOATS:
            raise BadFile(f"{path}: {name} holds {value.dtype}; expected numbers")
        if not value.size:
            raise BadFile(f"{path}: {name} {value.shape} is empty")
        tensors[name] = value if value.dtype.kind in "biu" else value.astype(np.float32)
    bad = [k for k, v in tensors.items() if v.dtype == np.float32 and not np.isfinite(v).all()]
    if bad:
        raise BadFile(f"{path}: not finite: {', '.join(bad[:5])}{' and more' if len(bad) > 5 else ''}")
    return tensors


def shards_of(index: pathlib.Path) -> list[pathlib.Path]:
    """The files that an index names, all of them beside it. Raises BadFile."""
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise BadFile(f"{index}: no weight_map from the names of tensors to those of files")
    for tensor, name in names.items():
        beside = isinstance(name, str) and pathlib.PurePath(name).name == name and "\0" not in name
        if not beside or not name.endswith(".safetensors"):
            raise BadFile(f"{index}: weight_map.{tensor} = {name!r}: expected a safetensors file in the same folder")
    shards = [index.with_name(name) for name in sorted(set(names.values()))]
    if missing := [shard.name for shard in shards if not shard.is_file()]:
        raise BadFile(f"{index}: there is no {', '.join(missing)} beside it; fetch all files of the model")
    return shards


def read_safetensors(path: pathlib.Path) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors of a safetensors file (through JAX, since NumPy alone has no bfloat16)."""
    try:
        with safetensors.safe_open(str(path), framework="flax") as file:
            for name in file.keys():  # noqa: SIM118, no dict
                yield name, np.asarray(file.get_tensor(name))
    except Exception as error:  # it raises whatever the bytes make it raise
        raise BadFile(f"{path}: no readable safetensors file: {error}") from error


def read_npz(path: pathlib.Path) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of a NumPy archive; pickled objects are refused. bfloat16 comes as raw pairs of bytes."""
    import ml_dtypes

    try:
        with np.load(path, allow_pickle=False) as file:
            for name in file.files:
                value = file[name]
                yield name, value.view(ml_dtypes.bfloat16) if value.dtype.str == "|V2" else value
    except Exception as error:  # as above
        raise BadFile(f"{path}: no readable npz file of plain arrays: {error}") from error


def read_torch(path: pathlib.Path) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors of a PyTorch file, by PyTorch's restricted reader, which makes tensors only; those of a TorchScript
    archive, which it refuses, by ours."""
    if torchscript.is_archive(path):
        try:
            yield from ((k, v) for k, v in torchscript.read(path) if not k.endswith("attn_mask"))  # made, not trained
        except Exception as error:  # damaged bytes raise whatever they like
            raise BadFile(f"{path}: no readable TorchScript archive (its code is not run): {error}") from error
        return
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f'{path.name} is a PyTorch file: pip install "bigcl[export]", or convert it to safetensors'
        ) from error
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # it raises whatever the bytes make it raise
        held = re.search(r"GLOBAL (\S+)", str(error))  # the rest of the message says how to load it all the same
        why = "it is damaged or of another kind" if held is None else f"it holds {held[1]}"
        raise BadFile(f"{path}: no PyTorch file of tensors alone, and nothing else is loaded: {why}") from error
    loaded = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(loaded, dict) or not all(isinstance(v, torch.Tensor) for v in loaded.values()):
        raise BadFile(f"{path}: expected a dictionary of tensors, or one under 'state_dict'")
    for name, tensor in loaded.items():
        dense = isinstance(name, str) and tensor.layout == torch.strided and not tensor.is_quantized
        if not dense or tensor.device.type != "cpu":
            raise BadFile(f"{path}: {name!r} is no plain tensor under a name, such as torch.save writes of a model")
        yield name.removeprefix("module."), (tensor.float() if tensor.is_floating_point() else tensor).detach().numpy()


@contextlib.contextmanager
def expecting(where: pathlib.Path | str) -> Iterator[None]:
    """Tensors that are not there, or not of the shape that is looked for, as BadFile.

    where: the file they are from.
    """
    try:
        yield
    except KeyError as error:
        raise BadFile(f"{where}: no tensor {error}: not the model that its config describes, or damaged") from error
    except (ValueError, IndexError, TypeError, AttributeError, ZeroDivisionError) as error:
        if isinstance(error, (BadFile, ConfigError)):
            raise
        raise BadFile(f"{where}: a tensor of another shape than its config describes: {error}") from error


def write_safetensors(tensors: Tensors, path: pathlib.Path) -> None:
    """Writes the tensors; the metadata is what transformers asks for."""
    safetensors.numpy.save_file(tensors, str(path), metadata={"format": "pt"})
    path.chmod(0o644)  # the library leaves it to its owner alone


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """A JSON object. Raises BadFile."""
    value = parsed_json(path)
    if not isinstance(value, dict):
        raise BadFile(f"{path}: expected a JSON object")
    return value


def read_json_list(path: pathlib.Path) -> list[Any]:
    """A JSON list. Raises BadFile."""
    value = parsed_json(path)
    if not isinstance(value, list):
        raise BadFile(f"{path}: expected a JSON list")
    return value


def parsed_json(path: pathlib.Path) -> Any:
    """Whatever a JSON file holds. Raises BadFile."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise BadFile(f"{path}: no readable JSON file: {error}") from error


def write_json(value: Any, path: pathlib.Path) -> None:
    """Writes JSON as people read it."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")

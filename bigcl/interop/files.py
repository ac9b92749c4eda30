"""Files of weights, read without ever unpickling, and written as safetensors."""

import json
import pathlib
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

Tensors = dict[str, np.ndarray]

PREFERRED = ("model", "open_clip_model", "open_clip_pytorch_model", "pytorch_model")
SUFFIXES = (".safetensors", ".safetensors.index.json", ".npz", ".bin", ".pt", ".pth")


class BadFile(ValueError):
    """A file of weights or a config that cannot be read; the message names it and says why."""


def find_weights(path: pathlib.Path) -> pathlib.Path:
    """The file of weights in a folder, or the file itself."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"--path: there is no {path}")
    found = sorted(p for p in path.iterdir() if p.name.endswith(SUFFIXES))
    named = [path / f"{name}{suffix}" for suffix in SUFFIXES for name in PREFERRED]
    chosen = next((p for p in named if p in found), found[0] if len(found) == 1 else None)
    if chosen is None:
        names = ", ".join(p.name for p in found) or "no file of weights"
        raise FileNotFoundError(f"--path: {path} holds {names}; give the path of one of {', '.join(SUFFIXES)}")
    return chosen


def read_tensors(path: pathlib.Path) -> Tensors:
    """The tensors of a file, or of a sharded safetensors index, in float32 where they are floats. Raises BadFile."""
    if path.name.endswith(".index.json"):
        shards = set(read_json(path)["weight_map"].values())
        if any(pathlib.PurePath(s).name != s for s in shards):
            raise BadFile(f"{path}: names files outside its folder")
        return {k: v for s in sorted(shards) for k, v in read_tensors(path.with_name(s)).items()}
    readers: dict[str, Callable[[pathlib.Path], Iterator[tuple[str, np.ndarray]]]] = {
        ".safetensors": read_safetensors,
        ".npz": read_npz,
        ".bin": read_torch,
        ".pt": read_torch,
        ".pth": read_torch,
    }
    if path.suffix not in readers:
        raise BadFile(f"{path}: unknown kind of file; known: {', '.join(readers)}")
    tensors = {k: v.astype(np.float32) if v.dtype.kind in "fV" else v for k, v in readers[path.suffix](path)}
    bad = [k for k, v in tensors.items() if v.dtype == np.float32 and not np.isfinite(v).all()]
    if bad:
        raise BadFile(f"{path}: not finite: {', '.join(bad[:5])}{' and more' if len(bad) > 5 else ''}")
    return tensors


def read_safetensors(path: pathlib.Path) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors of a safetensors file (through JAX, since NumPy alone has no bfloat16)."""
    try:
        with safetensors.safe_open(str(path), framework="flax") as file:
            for name in file.keys():  # noqa: SIM118, no dict
                yield name, np.asarray(file.get_tensor(name))
    except (safetensors.SafetensorError, OSError) as error:
        raise BadFile(f"{path}: no readable safetensors file: {error}") from error


def read_npz(path: pathlib.Path) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of a NumPy archive; pickled objects are refused. bfloat16 comes as raw pairs of bytes."""
    import ml_dtypes

    try:
        with np.load(path, allow_pickle=False) as file:
            for name in file.files:
                value = file[name]
                yield name, value.view(ml_dtypes.bfloat16) if value.dtype.str == "|V2" else value
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, KeyError) as error:
        raise BadFile(f"{path}: no readable npz file of plain arrays: {error}") from error


def read_torch(path: pathlib.Path) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors of a PyTorch file. Its pickle is read by PyTorch's restricted reader, which makes tensors only."""
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f'{path.name} is a PyTorch file: pip install "bigcl[export]", or convert it to safetensors'
        ) from error
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # it raises whatever the bytes make it raise
        raise BadFile(
            f"{path}: no PyTorch file of tensors alone (nothing else in it is loaded): {str(error).splitlines()[0]}"
        ) from error
    loaded = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(loaded, dict) or not all(isinstance(v, torch.Tensor) for v in loaded.values()):
        raise BadFile(f"{path}: expected a dictionary of tensors, or one under 'state_dict'")
    for name, tensor in loaded.items():
        yield name.removeprefix("module."), (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def write_safetensors(tensors: Tensors, path: pathlib.Path) -> None:
    """Writes the tensors; the metadata is what transformers asks for."""
    safetensors.numpy.save_file(tensors, str(path), metadata={"format": "pt"})
    path.chmod(0o644)  # the library leaves it to its owner alone


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """A JSON object. Raises BadFile."""
    try:
        value = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise BadFile(f"{path}: no readable JSON file: {error}") from error
    if not isinstance(value, dict):
        raise BadFile(f"{path}: expected a JSON object")
    return value


def write_json(value: Any, path: pathlib.Path) -> None:
    """Writes JSON as people read it."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")

"""Folders of prepared data: built once, whole or not there at all, shared by all processes of a machine."""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

MANIFEST = "manifest.json"


def cache_root() -> pathlib.Path:
    """Where prepared data lives: `$BIGCL_DATA`, or the folder `bigcl` of the user's cache directory."""
    if root := os.environ.get("BIGCL_DATA"):
        return pathlib.Path(root).expanduser()
    user = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return pathlib.Path(user).expanduser() / "bigcl"


def prepare(name: str, recipe: Mapping[str, Any], build: Callable[[pathlib.Path], None]) -> pathlib.Path:
    """The folder `<name>-<hash of recipe>` under the cache root, made by `build(empty_folder)` if it is not there yet.

    The folder gets its name last, with a manifest of the recipe and of every file's size: an interrupted build is never
    taken for whole. Of several processes that need the same folder, one builds and the others wait and reuse.

    recipe: plain data that determines the content.
    """
    recipe = json.loads(json.dumps(recipe, sort_keys=True))
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
    folder = cache_root() / f"{name}-{digest}"
    if is_whole(folder, recipe):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name(f"{folder.name}.lock")):
        if not is_whole(folder, recipe):  # else another process was faster
            partial = folder.with_name(f"{folder.name}.partial")
            for leftover in (partial, folder):
                shutil.rmtree(leftover, ignore_errors=True)
            partial.mkdir()
            build(partial)
            seal(partial, recipe)
            os.replace(partial, folder)
            fsync(folder.parent)
    return folder


def is_whole(folder: pathlib.Path, recipe: Mapping[str, Any]) -> bool:
    """Whether `folder` holds what its manifest lists, made by this recipe."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        return manifest["recipe"] == recipe and all(
            (folder / f).stat().st_size == n for f, n in manifest["bytes"].items()
        )
    except (FileNotFoundError, NotADirectoryError, KeyError, ValueError):
        return False


def seal(folder: pathlib.Path, recipe: Mapping[str, Any]) -> None:
    """Writes the manifest once every file is on the disk."""
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    manifest = {"recipe": recipe, "bytes": {str(f.relative_to(folder)): f.stat().st_size for f in files}}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
    for path in [*files, folder / MANIFEST, *(d for d in folder.rglob("*") if d.is_dir()), folder]:
        fsync(path)


def fsync(path: pathlib.Path) -> None:
    """Waits until a file, or the list of a folder's files, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[None]:
    """Holds an exclusive lock on a file; the system lets go of it when the process ends, however it ends."""
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

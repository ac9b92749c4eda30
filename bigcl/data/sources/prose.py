"""Sentences that show nothing: of licences and docstrings of installed packages."""

import ast
import hashlib
import importlib.metadata
import json
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Literal

from bigcl.data.cache import prepare
from bigcl.data.sources import Example

FILE = "sentences.json"
_PLAIN = re.compile(r"[A-Z][a-z]*(?:[ ,'-]+[A-Za-z]+)+")
_LEGAL = re.compile(r"(LICEN[CS]E|COPYING|NOTICE)", re.IGNORECASE)


class Prose:
    """Sentences of three to twelve words, of letters alone, out of the licences and docstrings of packages.

    An example: `{"text": "Subtract two pytrees", "image": None}`. Each sentence occurs once.

    split: "test" is every tenth sentence in the order of their sha256, "train" the rest.
    packages: names of installed distributions; by default some that bigcl stands on.
    """

    def __init__(
        self,
        split: Literal["train", "test"] = "train",
        packages: Sequence[str] = ("numpy", "jax", "flax", "optax", "orbax-checkpoint", "pillow"),
    ):
        versions = {name: importlib.metadata.version(name) for name in packages}
        folder = prepare("prose", {"packages": versions, "layout": 1}, lambda folder: collect(packages, folder))
        sentences = json.loads((folder / FILE).read_text("utf-8"))
        self.texts = [s for i, s in enumerate(sentences) if (i % 10 == 0) == (split == "test")]
        self.name = f"{folder.name}/{split}"

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> Example:
        return {"text": self.texts[index], "image": None}


def collect(packages: Sequence[str], folder: pathlib.Path) -> None:
    """Writes the sentences of all packages in the order of their hash."""
    found = {s for name in packages for text in texts(name) for s in sentences(text)}
    ordered = sorted(found, key=lambda s: hashlib.sha256(s.encode()).digest())
    (folder / FILE).write_text(json.dumps(ordered), encoding="utf-8")


def texts(package: str) -> Iterator[str]:
    """Licences, and docstrings of modules, classes and functions."""
    for file in importlib.metadata.distribution(package).files or []:
        path = pathlib.Path(str(file.locate()))
        if _LEGAL.match(path.name) and path.suffix != ".py" and path.exists():
            yield path.read_text("utf-8", errors="ignore")
        elif path.suffix == ".py" and path.exists():
            for node in ast.walk(ast.parse(path.read_bytes())):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                    yield ast.get_docstring(node) or ""


def sentences(text: str) -> list[str]:
    """The sentences of three to twelve words that are of letters alone, without the mark at their end."""
    parts = [
        part
        for paragraph in re.split(r"\n\s*\n", text)
        for part in re.split(r"[.;:](?:\s+|$)", " ".join(paragraph.split()))
    ]
    return [part for part in parts if 3 <= len(part.split()) <= 12 and _PLAIN.fullmatch(part)]

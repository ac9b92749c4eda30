"""Code and what it does: functions of Python's standard library or of installed packages, with their docstrings."""

import ast
import hashlib
import importlib.metadata
import json
import pathlib
import platform
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from typing import Literal

from bigcl.data.cache import prepare
from bigcl.data.sources import Example

FILE = "functions.json"
LEFT_OUT = {"site-packages", "test", "tests", "idlelib", "lib2to3"}
FEWEST_WORDS = 5


class Functions:
    """Functions whose docstring starts with a line of five words or more, once each (in the form of CodeSearchNet,
    Husain et al. 2019).

    An example: `{"text": "Return the sum of two numbers.", "code": "def add(a, b):\\n    return a + b", "name":
    "operator.py:add"}`: that line, the function without its docstring and comments, and where it stands.

    split: "test" is every tenth function in the order of the sha256 of its code, "train" the rest.
    packages: names of installed distributions; none: the standard library, without its tests.
    """

    def __init__(self, split: Literal["train", "test"] = "train", packages: Sequence[str] = ()):
        versions = {name: importlib.metadata.version(name) for name in packages}
        recipe = {"packages": versions, "python": platform.python_version(), "layout": 1}
        folder = prepare("functions", recipe, lambda folder: collect(packages, folder))
        functions = json.loads((folder / FILE).read_text("utf-8"))
        self.functions = [f for i, f in enumerate(functions) if (i % 10 == 0) == (split == "test")]
        self.name = f"{folder.name}/{split}"

    def __len__(self) -> int:
        return len(self.functions)

    def __getitem__(self, index: int) -> Example:
        return dict(self.functions[index])


def collect(packages: Sequence[str], folder: pathlib.Path) -> None:
    """Writes the functions in the order of the hash of their code."""
    found = {f["code"]: f for path, name in files(packages) for f in functions(path.read_bytes(), name)}
    ordered = sorted(found.values(), key=lambda f: hashlib.sha256(f["code"].encode()).digest())
    (folder / FILE).write_text(json.dumps(ordered), encoding="utf-8")


def files(packages: Sequence[str]) -> Iterator[tuple[pathlib.Path, str]]:
    """Sources with their names within library or distribution, in the order of these."""
    if not packages:
        root = pathlib.Path(sysconfig.get_path("stdlib"))
        found = [(path, path.relative_to(root)) for path in root.rglob("*.py")]
    else:
        listed = [file for name in packages for file in importlib.metadata.distribution(name).files or []]
        found = [(pathlib.Path(str(file.locate())), pathlib.Path(file)) for file in listed if file.suffix == ".py"]
    for path, name in sorted(found, key=lambda f: f[1].as_posix()):
        if LEFT_OUT.isdisjoint(name.parts) and path.exists():
            yield path, name.as_posix()


def functions(source: bytes, file: str) -> Iterator[Example]:
    """The functions of a file that say what they do; none of one that this Python cannot read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or not (doc := ast.get_docstring(node)):
            continue
        text = doc.partition("\n")[0].strip()
        if len(text.split()) >= FEWEST_WORDS and len(node.body) > 1:
            node.body = node.body[1:]
            yield {"text": text, "code": ast.unparse(node), "name": f"{file}:{node.name}"}

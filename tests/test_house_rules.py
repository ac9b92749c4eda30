"""The rules that CONTRIBUTING.md states, checked."""

import ast
import pathlib
import re

import pytest

from bigcl.registry import REGISTRIES, constructor

ROOT = pathlib.Path(__file__).parent.parent
SOURCES = sorted(p for d in ("bigcl", "configs", "launch", "tests", "benchmarks") for p in (ROOT / d).rglob("*.py"))
PACKAGE = [p for p in SOURCES if (ROOT / "bigcl") in p.parents]
IDEAS = {  # folder of one file per idea: what it also holds that is no idea of its own
    "towers": {"__init__", "codebook", "encoding", "features", "layers", "matmul"},
    "losses": {"__init__", "contrast", "halves", "similarity", "streaming", "telemetry"},
    "tasks": {"__init__", "joint", "state", "task", "terms"},
    "evals": {"__init__", "embedding", "gallery", "kmeans", "linear", "metrics", "prompts", "ranks"},
    "data/sources": {"__init__"},
}


def definitions(path: pathlib.Path):
    """Functions and classes of a file."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, kinds)]


def test_no_function_over_80_lines_and_no_file_over_600():
    long = [f"{p.relative_to(ROOT)}: {n} lines" for p in SOURCES if (n := len(p.read_text().splitlines())) > 600]
    for path in SOURCES:
        for node in definitions(path):
            if not isinstance(node, ast.ClassDef) and (n := node.end_lineno - node.lineno + 1) > 80:
                long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {n} lines")
    assert not long, "\n".join(long)


def test_everything_public_says_what_it_is():
    silent = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in PACKAGE
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    silent += [
        f"{path.relative_to(ROOT)}"
        for path in PACKAGE
        if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not silent, "no docstring: " + ", ".join(silent)


def private(tree: ast.AST):
    """Names with an underscore in front that a file imports, or takes from what it imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [part for alias in node.names for part in alias.name.split(".")]
        else:
            names = [node.attr] if isinstance(node, ast.Attribute) else []
        yield from (name for name in names if name.startswith("_") and not name.endswith("__"))


def test_a_recipe_has_at_most_120_lines_and_imports_nothing_private():
    recipes = [p for p in (ROOT / "configs" / "papers").glob("*.py") if p.stem not in ("__init__", "base")]
    assert len(recipes) >= 18
    found = [f"{p.name}: {n} lines" for p in recipes if (n := len(p.read_text().splitlines())) > 120]
    found += [f"{p.name}: {name}" for p in recipes for name in private(ast.parse(p.read_text()))]
    assert not found, ", ".join(found)
    tried = "from a import _b\nfrom a._c import d\nimport a._e\na._f()\na.__name__"
    assert sorted(private(ast.parse(tried))) == ["_b", "_c", "_e", "_f"]


@pytest.mark.parametrize("registry, kind", [(r, k) for r, table in REGISTRIES.items() for k in table])
def test_every_kind_can_be_imported(registry, kind):
    assert callable(constructor(registry, kind))


@pytest.mark.parametrize("folder", IDEAS)
def test_a_new_idea_is_one_file_and_one_line(folder):
    """Each file of such a folder is named in the registry and nowhere else in the package."""
    targets = " ".join(t for table in REGISTRIES.values() for t in table.values())
    for path in sorted((ROOT / "bigcl" / folder).glob("*.py")):
        if path.stem in IDEAS[folder]:
            continue
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        assert re.search(rf"\b{re.escape(module)}:", targets), f"{module} has no line in bigcl/registry.py"
        if folder in ("losses", "data/sources", "tasks"):
            continue  # losses, sources and tasks may also be used directly, by tasks and by other sources
        users = [p for p in PACKAGE if p != path and re.search(rf"\b{re.escape(module)}\b(?!:)", p.read_text())]
        assert not users, f"{module} is imported by {users}"


def test_nothing_is_evaluated_or_unpickled():
    pattern = re.compile(r"(?<![\w.])(eval|exec)\(|import pickle\b|pickle\.load|allow_pickle=True|yaml\.load\(")
    found = [f"{p.relative_to(ROOT)}" for p in PACKAGE if pattern.search(p.read_text())]
    assert not found, found

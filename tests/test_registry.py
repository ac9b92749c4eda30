"""Parts: built from plain data, and checked against the constructor's own signature before anything is built."""

import re
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

from bigcl import registry
from bigcl.registry import ConfigError, Part


class Leaf:
    """What the registry of these tests builds."""

    def __init__(
        self,
        *,
        size: int,
        rate: float = 0.5,
        names: Sequence[str] = (),
        mode: Literal["left", "right"] = "left",
        vocab: int | None = None,
    ):
        self.size, self.rate, self.names, self.mode, self.vocab = size, rate, names, mode, vocab


class Tree:
    """A part with parts inside, in each way that an annotation can hold them."""

    def __init__(
        self,
        *,
        leaf: Annotated[Part, "leaf"] | None = None,
        leaves: Sequence[Annotated[Part, "leaf"]] = (),
        by_name: Mapping[str, Annotated[Part, "leaf"] | str] = {},
        options: Annotated[Part, Leaf] = {"size": 1},  # noqa: B006, read only
        rngs=None,
        dtype=jnp.float32,
    ):
        self.leaf, self.rngs, self.dtype = leaf, rngs, dtype


def combine(x: Float[Array, " b"], *, weight: float = 1.0) -> Float[Array, " b"]:
    """A part that is a function of arrays."""
    return weight * x


@pytest.fixture(autouse=True)
def registries(monkeypatch):
    """Three registries more, whose constructors are found by name like any other."""
    module = types.ModuleType("parts_of_these_tests")
    module.Leaf, module.Tree, module.combine = Leaf, Tree, combine
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for name, table in {
        "leaf": {"leaf": "Leaf"},
        "tree": {"tree": "Tree", "trunk": "Trunk"},
        "sum": {"combine": "combine"},
    }.items():
        monkeypatch.setitem(registry.REGISTRIES, name, {k: f"{module.__name__}:{v}" for k, v in table.items()})
    monkeypatch.setitem(registry.HOLDER_KEYS, "leaf", {"every": int})


def test_keys_are_the_arguments():
    leaf = registry.build(
        "leaf", {"kind": "leaf", "size": 3, "rate": 1, "names": ["a", "b"], "mode": "right", "every": 5}
    )
    assert (leaf.size, leaf.rate, leaf.names, leaf.mode) == (3, 1, ["a", "b"], "right")


def test_context_goes_to_those_who_ask_unless_the_part_says_otherwise():
    tree = registry.build("tree", {"kind": "tree"}, rngs="keys", dtype=jnp.bfloat16, mesh="unwanted")
    assert tree.rngs == "keys" and tree.dtype == jnp.bfloat16
    assert registry.build("leaf", {"kind": "leaf", "size": 1}, vocab=9).vocab == 9
    assert registry.build("leaf", {"kind": "leaf", "size": 1, "vocab": 7}, vocab=9).vocab == 7


def test_bound_functions_wait_for_their_arrays():
    bound = registry.bind("sum", {"kind": "combine", "weight": 2})
    np.testing.assert_array_equal(bound(jnp.ones(3)), 2 * np.ones(3))


def test_nothing_is_imported_before_it_is_used():
    registry.check("tree", {"kind": "tree"}, "tree")
    with pytest.raises(AttributeError, match="Trunk"):
        registry.build("tree", {"kind": "trunk"})


LEAF = {"kind": "leaf", "size": 1}


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"kind": "tre"}, "at: unknown tree 'tre'; did you mean 'tree'?"),
        ({"kind": "zzz"}, "at: unknown tree 'zzz'; known: tree, trunk"),
        ({"leaf": LEAF}, 'at: expected a part like {"kind": ...}'),
        ("tree", "at: expected a part like {\"kind\": ...}, got 'tree'"),
        ({"kind": "tree", "leafs": []}, "at.leafs: unknown key; did you mean 'leaf'?"),
        ({"kind": "tree", "xyz": 1}, "at.xyz: unknown key; known: by_name, leaf, leaves, options"),
        ({"kind": "tree", "leaves": LEAF}, "at.leaves: expected Sequence"),
        ({"kind": "tree", "leaf": {"kind": "leaf"}}, "at.leaf: missing key 'size'"),
        ({"kind": "tree", "leaf": {**LEAF, "sise": 2}}, "at.leaf.sise: unknown key; did you mean 'size'?"),
        ({"kind": "tree", "leaf": {**LEAF, "size": "3"}}, "at.leaf.size: expected int, got '3'"),
        ({"kind": "tree", "leaf": {**LEAF, "size": 2.0}}, "at.leaf.size: expected int, got 2.0"),
        ({"kind": "tree", "leaf": {**LEAF, "rate": None}}, "at.leaf.rate: expected float, got None"),
        ({"kind": "tree", "leaf": {**LEAF, "names": ["a", 3]}}, "at.leaf.names: expected Sequence[str], got ['a', 3]"),
        ({"kind": "tree", "leaf": {**LEAF, "mode": "up"}}, "at.leaf.mode: expected Literal['left', 'right'], got 'up'"),
        ({"kind": "tree", "leaf": {**LEAF, "every": "often"}}, "at.leaf.every: expected int, got 'often'"),
        ({"kind": "tree", "leaf": {**LEAF, "evry": 2}}, "at.leaf.evry: unknown key; did you mean 'every'?"),
        ({"kind": "tree", "leaves": [LEAF, {"kind": "lea"}]}, "at.leaves[1]: unknown leaf 'lea'; did you mean 'leaf'?"),
        (
            {"kind": "tree", "by_name": {"one": "text", "two": {**LEAF, "rates": 1}}},
            "at.by_name.two.rates: unknown key",
        ),
        ({"kind": "tree", "options": {"size": 1, "rat": 2}}, "at.options.rat: unknown key; did you mean 'rate'?"),
        ({"kind": "tree", "options": {}}, "at.options: missing key 'size'"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_errors_name_the_key_and_the_nearest_valid_one(part, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        registry.check("tree", part, "at")


def test_a_part_that_fits_passes():
    part = {
        "kind": "tree",
        "leaf": {**LEAF, "every": 2, "rate": 1},
        "leaves": (LEAF,),
        "by_name": {"a": LEAF, "b": "a"},
        "options": {"size": 2},
    }
    registry.check("tree", part, "at")
    registry.check("tree", {"kind": "tree", "leaf": None}, "at")


def test_what_the_program_supplies_is_never_suggested_and_may_be_absent():
    with pytest.raises(ConfigError) as error:
        registry.check("tree", {"kind": "tree", "rng": 1}, "at")
    assert "rngs" not in str(error.value)
    registry.check("sum", {"kind": "combine"}, "at")

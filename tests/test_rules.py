"""Ordered pattern lists: which value a path gets, and what is said about leftovers."""

import jax.numpy as jnp
import numpy as np
import pytest

from bigcl import rules
from bigcl.registry import ConfigError

PATHS = ["towers/image/embed/kernel", "towers/image/embed/bias", "towers/text/embed", "log_scale"]


def test_first_match_wins_over_whole_paths():
    found = rules.match([(".*/bias", 0), ("towers/image/.*", 1), ["embed|.*", 2]], PATHS, what="optim.lr_mults")
    assert found == dict(zip(PATHS, [1, 0, 2, 2], strict=True))


def test_order_follows_the_paths():
    assert list(rules.match([("log_scale", 0), (".*", 1)], PATHS, what="w")) == PATHS


@pytest.mark.parametrize(
    "patterns, words",
    [
        (["towers/.*"], ["optim.lr_mults", "log_scale", '".*"']),
        (["towers/image/embd/kernel", ".*"], ["'towers/image/embd/kernel'", "nearest is 'towers/image/embed/kernel'"]),
        (["embed", ".*"], ["'embed'", "matches no parameter"]),  # a part of a path is not a path
        (["towers/(", ".*"], ["'towers/('", "not a regular expression"]),
    ],
)
def test_leftovers_are_errors(patterns, words):
    with pytest.raises(ConfigError) as error:
        rules.match([(p, 1) for p in patterns], PATHS, what="optim.lr_mults")
    assert all(word in str(error.value) for word in words)


def test_a_pattern_behind_a_broader_one_is_used():
    assert rules.match([(".*", 1), ("log_scale", 2)], PATHS, what="w")["log_scale"] == 1


def test_at_most_five_uncovered_paths_are_named():
    with pytest.raises(ConfigError, match=r"p0, p1, p2, p3, p4 and 3 more"):
        rules.match([], [f"p{i}" for i in range(8)], what="mesh.rules")


@pytest.mark.parametrize("rule", ["abc", (".*",), (".*", 1, 2), (1, ".*")])
def test_a_rule_is_a_pair(rule):
    with pytest.raises(ConfigError, match="pairs"):
        rules.match([rule], PATHS, what="w")


def test_trees_nested_and_flat():
    nested = {"b": {"x": jnp.ones(2), "a": jnp.zeros(3)}, "a": jnp.ones(())}
    assert list(rules.flatten(nested)) == ["a", "b/a", "b/x"]
    assert list(rules.flatten(rules.flatten(nested))) == list(rules.flatten(nested))
    mapped = rules.map_with_path(lambda path, x: (path, x.size), nested)
    assert mapped == {"b": {"x": ("b/x", 2), "a": ("b/a", 3)}, "a": ("a", 1)}
    np.testing.assert_array_equal(rules.flatten(nested)["b/x"], np.ones(2))

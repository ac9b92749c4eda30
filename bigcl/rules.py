"""Ordered lists of (regex, value) over parameter paths such as "towers/image/embed/kernel": the first match decides.

Neither side may be left over. A path that no pattern covers and a pattern that fits no path are both errors: the second
is how a renamed layer loses its learning rate without anyone noticing.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax

from bigcl.registry import ConfigError

Rules = Sequence[Sequence[Any]]
"""Ordered (regex, value) pairs; a config may write each pair as a list."""


def match(rules: Rules, paths: Iterable[str], *, what: str) -> dict[str, Any]:
    """The value for each path: that of the first pattern that matches all of it (`re.fullmatch`).

    what: where the rules stand in the config, for the messages.
    Raises ConfigError for a rule that is no pair, an invalid regex, a pattern that matches no path (taken by an earlier
    pattern or not), and paths that no pattern matches.
    """
    paths = list(paths)
    for rule in rules:
        if isinstance(rule, str) or len(rule) != 2 or not isinstance(rule[0], str):
            raise ConfigError(f"{what}: expected pairs (regex, value), got {rule!r}")
    compiled = [(compiled_pattern(pattern, what), value) for pattern, value in rules]
    for pattern, _ in compiled:
        if not any(pattern.fullmatch(path) for path in paths):
            raise ConfigError(
                f"{what}: pattern {pattern.pattern!r} matches no parameter; {nearest_path(pattern.pattern, paths)}"
            )
    found = {path: value for path in paths for pattern, value in reversed(compiled) if pattern.fullmatch(path)}
    uncovered = [path for path in paths if path not in found]
    if uncovered:
        more = f" and {len(uncovered) - 5} more" if len(uncovered) > 5 else ""
        raise ConfigError(
            f'{what}: no pattern covers {", ".join(uncovered[:5])}{more}; end the list with a rule for ".*"'
        )
    return found


def matches(pattern: str, path: str) -> bool:
    """Whether the pattern fits the whole path."""
    return re.fullmatch(pattern, path) is not None


def compiled_pattern(pattern: str, what: str) -> re.Pattern[str]:
    """The compiled regex, or a ConfigError that says what is wrong with it."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"{what}: {pattern!r} is not a regular expression: {error}") from error


def nearest_path(pattern: str, paths: Sequence[str]) -> str:
    """The existing path most like a pattern."""
    close = difflib.get_close_matches(pattern, paths, n=1, cutoff=0.0)
    return f"the nearest is {close[0]!r}" if close else "there are none"


def flatten(tree: Any) -> dict[str, Any]:
    """The leaves of nested dictionaries by path; a flat dictionary keyed by paths stays as it is."""
    return {joined(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def map_with_path(function: Callable[[str, Any], Any], tree: Any) -> Any:
    """A tree of the same structure with `function(path, leaf)` in the place of each leaf."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: function(joined(path), leaf), tree)


def joined(path: tuple[Any, ...]) -> str:
    """A JAX key path as text."""
    return jax.tree_util.keystr(path, simple=True, separator="/")

"""What the configs of other libraries may say, as far as bigcl reads them: a file that is damaged, or made to do harm,
is an error that names the file, the key, and what is expected there."""

import difflib
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from bigcl.interop.files import BadFile, read_json


class Kind(NamedTuple):
    """What a value may be.

    expected: in words.  needed: whether the key must be there.
    """

    expected: str
    fits: Callable[[Any], bool]
    needed: bool = False


Schema = Mapping[str, Any]
"""Keys and what each holds: a Kind, a schema of its own, Each or Maybe. What has no rule may be anything."""


class Each(NamedTuple):
    """An object with any keys, whose values that are objects have this schema."""

    schema: Schema


class Maybe(NamedTuple):
    """A schema, or null."""

    schema: Schema


def whole(highest: int, lowest: int = 1) -> Kind:
    """An int between these; true and false are none."""
    return Kind(f"a whole number from {lowest:,} to {highest:,}", lambda x: type(x) is int and lowest <= x <= highest)


def number(highest: float, lowest: float = 0.0) -> Kind:
    """A finite number above `lowest`."""
    return Kind(f"a number above {lowest:g}, at most {highest:g}", lambda x: is_number(x) and lowest < x <= highest)


def one_of(*words: str) -> Kind:
    """One of these words."""
    return Kind(f"one of {', '.join(map(repr, words))}", lambda x: isinstance(x, str) and x in words)


def nullable(kind: Kind) -> Kind:
    """The same, or null."""
    return kind._replace(expected=f"{kind.expected}, or null", fits=lambda x: x is None or kind.fits(x))


def needed(kind: Kind) -> Kind:
    """The same, and not to be left out."""
    return kind._replace(needed=True)


def is_number(x: Any) -> bool:
    """Whether JSON gave a number that is one."""
    return type(x) in (int, float) and abs(x) < 1e300 and math.isfinite(x)


def is_colour(x: Any, lowest: float) -> bool:
    """Whether something is a number for each of three channels."""
    return isinstance(x, list) and len(x) == 3 and all(is_number(v) and lowest <= v <= 1e3 for v in x)


ANYTHING = Kind("anything", lambda x: True)
FLAG = Kind("true or false", lambda x: isinstance(x, bool))
WORD = Kind("a string", lambda x: isinstance(x, str))
FILE_NAME = Kind(
    "the name of a file in the same folder",
    lambda x: isinstance(x, str) and pathlib.PurePath(x).name == x and x not in ("", ".", "..") and "\0" not in x,
)
WIDTH, DEPTH, HEADS = whole(1 << 16), whole(1 << 10), whole(1 << 10)
PIXELS, PATCH, TOKENS, VOCABULARY = whole(1 << 14), whole(1 << 10), whole(1 << 20), whole(1 << 24)
ID, RATIO, EPSILON = whole(1 << 24, lowest=0), number(64), number(1)
MEAN = Kind("a list of three numbers", lambda x: is_colour(x, -1e3))
STD = Kind("a list of three numbers above 0", lambda x: is_colour(x, 1e-6))
"""Limits are far beyond any model that was published; what is above them would only fill the memory."""


def read(path: pathlib.Path, schema: Schema) -> dict[str, Any]:
    """A JSON object that is as the schema says. Raises BadFile."""
    record = read_json(path)
    check(record, schema, f"{path}: ")
    return record


def check(record: Any, schema: Schema, where: str) -> None:
    """Raises BadFile for a value that does not fit, a key that is needed and missing, or one that is misspelt."""
    if not isinstance(record, dict):
        raise BadFile(f"{where.rstrip('.')} = {shown(record)}: expected a JSON object")
    for key in record:
        near = difflib.get_close_matches(key, [k for k in schema if k not in record], n=1, cutoff=0.9)
        if key not in schema and near:
            raise BadFile(f"{where}{shown(key)}: unknown key; did you mean {near[0]!r}?")
    for key, rule in schema.items():
        value = record.get(key)
        if key not in record:
            if isinstance(rule, Kind) and rule.needed:
                raise BadFile(f"{where}{key} is missing; expected {rule.expected}")
        elif isinstance(rule, Kind):
            if not rule.fits(value):
                raise BadFile(f"{where}{key} = {shown(value)}: expected {rule.expected}")
        elif isinstance(rule, Each):
            check(value, {}, f"{where}{key}.")
            for name, part in (value or {}).items():
                if isinstance(part, dict):
                    check(part, rule.schema, f"{where}{key}.{name}.")
        elif not (isinstance(rule, Maybe) and value is None):
            check(value, rule.schema if isinstance(rule, Maybe) else rule, f"{where}{key}.")


def shown(value: Any) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**30 else "a number of more than 30 digits"
    return text if len(text) <= 80 else f"{text[:77]}..."

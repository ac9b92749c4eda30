"""Expressions over fields of examples: `width >= 200 and similarity > 0.28 and language in ['en', 'de']`.

From loose to tight: `or`; `and`; `not`; comparisons `== != < <= > >= in`, `not in`, which chain (1 < x < 5 means both);
`+ -`; `* / %`; the sign `-`. Values: numbers, 'text' or "text", true, false, null, names of fields (dots reach into
nested dicts), parentheses, and the functions len(text or list), lower(text), abs(x), log(x), min(x, y, ...) and
max(x, y, ...). `a in b` looks for a in a list, be it a field or [values], or for a part of a text.

Columns have gaps, so some rules are not Python's. Numbers are float64, and truth values count as 1 and 0. A number that
is missing or undefined (null, NaN, x / 0, the logarithm of what is not positive) is null. Arithmetic with null gives
null, null equals null alone, and no order holds for it. Null, zero, empty text and empty lists are false. `and`, `or`
and `not` give true or false, and compute both sides.
"""

import functools
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from bigcl.registry import ConfigError, nearest

MAX_DEPTH = 64
_TOKEN = re.compile(
    r"""(?P<space>\s+)
    | (?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
    | (?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
    | (?P<name>[^\W\d]\w*(?:\.\w+)*)
    | (?P<sign>==|!=|<=|>=|[-+*/%<>()\[\],])""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_WORDS = frozenset({"and", "or", "not", "in"})
_CONSTANTS = {"true": True, "false": False, "null": None}
_LARGEST = int(np.finfo(np.float64).max)
_PLAIN = {bool, float, str, type(None)}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}

Column = np.ndarray
"""Values of n examples, or one value for all of them (0-d): bool, float64 with NaN for null, or object (text, lists,
None, or a mixture)."""


class ExpressionError(ConfigError):
    """An expression that cannot be read, or that does not fit the fields; the message points at the place."""

    def __init__(self, message: str, text: str, place: int):
        line = re.sub(r"\s", " ", text)
        super().__init__(f"expression: {message}\n  {line}\n  {' ' * place}^")
        self.place = place


class Token(NamedTuple):
    """A piece of the text: number, text, name, word, sign or end; and where it stands."""

    kind: str
    text: str
    place: int


class Step(NamedTuple):
    """A step of the computation on a stack: puts a field (str) or a constant there, or takes `taken` values and puts
    what a function makes of them. place: what an error points at."""

    what: str | Column | Callable[..., Column]
    taken: int
    place: int


class Expression:
    """An expression, ready to be computed for many examples at once. Raises ExpressionError.

    names: the fields that it reads, with their dots.
    """

    def __init__(self, text: str):
        self.text, self.steps = text, Parser(text).steps
        self.names = [*dict.fromkeys(step.what for step in self.steps if isinstance(step.what, str))]

    def holds(self, columns: Mapping[str, Sequence[Any]]) -> Bool[np.ndarray, " n"]:
        """For which examples the expression is true. columns: a value of each example, for each of `names`.

        Raises ExpressionError for values that an operator cannot take.
        """
        fields = {name: as_column(columns[name]) for name in self.names}
        stack: list[Column] = []
        for what, taken, place in self.steps:  # no recursion here, however long the text
            if isinstance(what, str):
                stack.append(fields[what])
            elif isinstance(what, np.ndarray):
                stack.append(what)
            else:
                first = len(stack) - taken
                try:
                    with np.errstate(all="ignore"):
                        stack[first:] = [what(*stack[first:])]
                except TypeError as error:
                    raise ExpressionError(str(error), self.text, place) from error
        size = len(next(iter(fields.values()))) if fields else 1
        return np.broadcast_to(truth(stack[0]), size)


class Parser:
    """From text to steps, by precedence climbing (Richards & Whitby-Strevens 1979)."""

    def __init__(self, text: str):
        self.text, self.tokens, self.position, self.depth = text, list(tokenize(text)), 0, 0
        self.steps: list[Step] = []
        self.expression(least=1)
        if self.next.kind != "end":
            raise self.error(f"expected an operator, found {self.next.text!r}")

    @property
    def next(self) -> Token:
        """The token that comes next."""
        return self.tokens[self.position]

    def sees(self, *texts: str) -> bool:
        """Whether the next token is one of these signs or words."""
        return self.next.kind in ("sign", "word") and self.next.text in texts

    def take(self, *texts: str) -> Token:
        """Goes past the next token. texts: what it has to be."""
        if texts and not self.sees(*texts):
            raise self.error(f"expected {' or '.join(map(repr, texts))}, found {self.next.text or 'the end'!r}")
        self.position += 1
        return self.tokens[self.position - 1]

    def error(self, message: str) -> ExpressionError:
        """An error at the next token."""
        return ExpressionError(message, self.text, self.next.place)

    def expression(self, least: int) -> None:
        """An operand, and all operators after it that bind at least as tight as `least`."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.error(f"nested deeper than {MAX_DEPTH}")
        place = self.next.place
        if self.sees("not") and least <= _NOT:
            self.take()
            self.expression(_NOT)
            self.steps.append(Step(negate, 1, place))
        elif self.sees("-"):
            self.take()
            self.expression(_SIGN)
            self.steps.append(Step(minus, 1, place))
        elif self.sees("("):
            self.take()
            self.expression(1)
            self.take(")")
        else:
            self.value()
        while (level := self.level()) >= least:
            if level == _COMPARISON:
                self.comparisons()
            else:
                sign = self.take()
                self.expression(level + 1)
                self.steps.append(Step(_OPERATORS[sign.text][1], 2, sign.place))
        self.depth -= 1

    def level(self) -> int:
        """How tight the next token binds as an operator between two operands; 0 if it is none."""
        if self.sees("not"):
            return _COMPARISON if self.tokens[self.position + 1].text == "in" else 0
        if self.sees(*_COMPARISONS):
            return _COMPARISON
        return _OPERATORS[self.next.text][0] if self.sees(*_OPERATORS) else 0

    def comparisons(self) -> None:
        """A chain of comparisons, whose first operand is done."""
        place, links = self.next.place, []
        while self.level() == _COMPARISON:
            denied = self.sees("not") and self.take()
            sign = self.take(*_COMPARISONS).text
            self.expression(_COMPARISON + 1)
            links.append(_COMPARISONS["not in" if denied else sign])
        self.steps.append(Step(functools.partial(chain, links), len(links) + 1, place))

    def value(self) -> None:
        """A name, a function's call, or a constant."""
        token = self.next
        if token.kind != "name" or token.text in _CONSTANTS:
            self.steps.append(Step(one(self.constant()), 0, token.place))
            return
        self.take()
        if not self.sees("("):
            self.steps.append(Step(token.text, 0, token.place))
            return
        if token.text not in _FUNCTIONS:
            message = f"no function {token.text!r}; {nearest(token.text, _FUNCTIONS)}"
            raise ExpressionError(message, self.text, token.place)
        self.take("(")
        count = 0
        while not self.sees(")"):
            if count:
                self.take(",")
            self.expression(1)
            count += 1
        self.take(")")
        function, least, most = _FUNCTIONS[token.text]
        if not least <= count <= most:
            raise ExpressionError(f"{token.text} does not take {count} values", self.text, token.place)
        self.steps.append(Step(function, count, token.place))

    def constant(self, inside: bool = False) -> Any:
        """A constant, or outside of a list, a list of them."""
        token = self.next
        if token.kind in ("number", "text") or token.text in _CONSTANTS:
            self.take()
            if token.kind == "text":
                return re.sub(r"(?s)\\(.)", lambda match: _ESCAPES.get(match[1], match[1]), token.text[1:-1])
            return float(token.text) if token.kind == "number" else _CONSTANTS[token.text]
        if inside and self.sees("-"):
            self.take()
            if self.next.kind != "number":
                raise self.error("expected a number")
            return -float(self.take().text)
        if inside or not self.sees("["):
            what = "a constant" if inside else "a value"
            raise self.error(
                f"expected {what}, found {token.text!r}" if token.text else f"expected {what}, not the end"
            )
        self.take()
        values: list[Any] = []
        while not self.sees("]"):
            if values:
                self.take(",")
            values.append(self.constant(inside=True))
        self.take("]")
        return values


def tokenize(text: str) -> Iterator[Token]:
    """The tokens of a text, and one for its end. Raises ExpressionError."""
    place = 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            piece = re.findall(r"[\w.]+|.", text[place:], re.DOTALL)[0]
            message = "a text without its closing quote" if piece in "'\"" else f"{piece!r} has no meaning"
            raise ExpressionError(message, text, place)
        kind = str(match.lastgroup)
        if kind != "space":
            yield Token("word" if match[0] in _WORDS else kind, match[0], place)
        place = match.end()
    yield Token("end", "", place)


def one(value: Any) -> Column:
    """A constant as a column of no dimension."""
    return as_column([value])[0:1].reshape(())


def as_column(values: Sequence[Any] | np.ndarray) -> Column:
    """Values of a field, one for each example, as a column of the plainest type that holds them."""
    if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "biuf":
        return values if values.dtype.kind == "b" else values.astype(np.float64)
    kinds = set(map(type, values))
    if not kinds <= _PLAIN:
        values = [normal(value) for value in values]
        kinds = set(map(type, values))
    if kinds == {bool}:
        return np.array(values, bool)
    if kinds <= {bool, float, type(None)}:
        return np.array(values, np.float64)  # where None is NaN
    column = np.empty(len(values), object)
    if kinds <= _PLAIN:
        column[:] = values
    else:
        for i, value in enumerate(values):  # one by one, or NumPy would take lists apart
            column[i] = value
    return column


def normal(value: Any) -> Any:
    """A value as bool, float, str, list or None; other things, such as dicts, as they are."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, int | float):
        return (
            None if value != value else float(min(max(value, -_LARGEST), _LARGEST)) if isinstance(value, int) else value
        )
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return [normal(v) for v in value] if isinstance(value, list | tuple) else value


def each(function: Callable[..., Any], *columns: Column) -> Column:
    """A function of single values, applied to every example."""
    return np.asarray(np.frompyfunc(function, len(columns), 1)(*columns), object)


def describe(value: Any) -> str:
    """What kind of value it is, for messages."""
    names = {bool: "a truth value", float: "a number", str: "a text", list: "a list", type(None): "null"}
    return names.get(type(value), f"a {type(value).__name__}")


def as_numbers(column: Column) -> Column:
    """The same as float64, NaN for null. Raises TypeError for text and lists."""

    def convert(value: Any) -> float:
        if isinstance(value, bool | float):
            return float(value)
        if value is None:
            return np.nan
        raise TypeError(f"needs numbers, not {describe(value)}")

    return np.asarray(each(convert, column) if column.dtype == object else column, np.float64)


def truth(column: Column) -> Column:
    """Which values count as true."""
    if column.dtype == object:
        return np.asarray(each(bool, column), bool)
    return (column != 0) & (column == column)


def negate(a: Column) -> Column:
    """not a"""
    return ~truth(a)


def both(a: Column, b: Column) -> Column:
    """a and b"""
    return truth(a) & truth(b)


def either(a: Column, b: Column) -> Column:
    """a or b"""
    return truth(a) | truth(b)


def minus(a: Column) -> Column:
    """-a"""
    return -as_numbers(a)


def arithmetic(function: Callable[[Column, Column], Column], a: Column, b: Column) -> Column:
    """A sum, difference or product."""
    return function(as_numbers(a), as_numbers(b))


def division(function: Callable[[Column, Column], Column], a: Column, b: Column) -> Column:
    """A quotient or remainder; null where b is 0."""
    a, b = as_numbers(a), as_numbers(b)
    return np.where(b == 0, np.nan, function(a, b))


def equal(a: Column, b: Column) -> Column:
    """a == b"""
    if a.dtype == object or b.dtype == object:
        return np.asarray(each(lambda x, y: normal(x) == normal(y), a, b), bool)
    return (a == b) | ((a != a) & (b != b))


def ordered(function: Callable[[Any, Any], Any], a: Column, b: Column) -> Column:
    """a < b and the like: between numbers, or between texts; false for null."""

    def compare(x: Any, y: Any) -> bool:
        x, y = normal(x), normal(y)
        if x is None or y is None:
            return False
        if isinstance(x, str) != isinstance(y, str) or not isinstance(x, str | bool | float):
            raise TypeError(f"no order between {describe(x)} and {describe(y)}")
        return bool(function(x, y))

    if a.dtype == object or b.dtype == object:
        return np.asarray(each(compare, a, b), bool)
    return np.asarray(function(a, b), bool)


def contained(a: Column, b: Column) -> Column:
    """a in b"""

    def find(x: Any, y: Any) -> bool:
        x, y = normal(x), normal(y)
        if isinstance(y, list):
            return x in y
        if isinstance(x, str) and isinstance(y, str):
            return x in y
        if x is None or y is None:
            return False
        raise TypeError(f"`in` looks for text in text or for values in lists, not for {describe(x)} in {describe(y)}")

    if b.ndim == 0 and isinstance(b[()], list):  # the same list for all: hashed once
        known = frozenset(b[()])
        return np.asarray(each(lambda x: not isinstance(x, list | dict) and normal(x) in known, a), bool)
    return np.asarray(each(find, a, b), bool)


def chain(links: Sequence[Callable[[Column, Column], Column]], *operands: Column) -> Column:
    """a < b < c: every link between neighbours holds."""
    pairs = zip(links, operands[:-1], operands[1:], strict=True)
    return functools.reduce(operator.and_, (link(a, b) for link, a, b in pairs))


def length(a: Column) -> Column:
    """len(a)"""

    def count(value: Any) -> float:
        if normal(value) is None:
            return np.nan
        if not isinstance(value, str | list):
            raise TypeError(f"len needs text or a list, not {describe(value)}")
        return len(value)

    return np.asarray(each(count, a), np.float64)


def lower(a: Column) -> Column:
    """lower(a)"""

    def convert(value: Any) -> str | None:
        if normal(value) is None:
            return None
        if not isinstance(value, str):
            raise TypeError(f"lower needs text, not {describe(value)}")
        return value.lower()

    return each(convert, a)


def extreme(function: Callable[[Column, Column], Column], *columns: Column) -> Column:
    """min(a, b, ...) or max(a, b, ...); null if any is."""
    return functools.reduce(function, map(as_numbers, columns))


def magnitude(a: Column) -> Column:
    """abs(a)"""
    return np.abs(as_numbers(a))


def logarithm(a: Column) -> Column:
    """The natural logarithm, null for what is not positive."""
    a = as_numbers(a)
    return np.where(a > 0, np.log(a), np.nan)


def differ(a: Column, b: Column) -> Column:
    """a != b"""
    return ~equal(a, b)


def absent(a: Column, b: Column) -> Column:
    """a not in b"""
    return ~contained(a, b)


_NOT, _COMPARISON, _SIGN = 3, 4, 7
_OPERATORS: dict[str, tuple[int, Callable[..., Column]]] = {
    "or": (1, either),
    "and": (2, both),
    "+": (5, functools.partial(arithmetic, np.add)),
    "-": (5, functools.partial(arithmetic, np.subtract)),
    "*": (6, functools.partial(arithmetic, np.multiply)),
    "/": (6, functools.partial(division, np.divide)),
    "%": (6, functools.partial(division, np.mod)),
}
_COMPARISONS: dict[str, Callable[[Column, Column], Column]] = {
    "==": equal,
    "!=": differ,
    "<": functools.partial(ordered, operator.lt),
    "<=": functools.partial(ordered, operator.le),
    ">": functools.partial(ordered, operator.gt),
    ">=": functools.partial(ordered, operator.ge),
    "in": contained,
    "not in": absent,
}
_ANY = 2**31
_FUNCTIONS: dict[str, tuple[Callable[..., Column], int, int]] = {  # with the least and the most values they take
    "len": (length, 1, 1),
    "lower": (lower, 1, 1),
    "abs": (magnitude, 1, 1),
    "log": (logarithm, 1, 1),
    "min": (functools.partial(extreme, np.minimum), 2, _ANY),
    "max": (functools.partial(extreme, np.maximum), 2, _ANY),
}

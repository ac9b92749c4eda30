"""Expressions agree with Python on random ones, and random text raises nothing but ExpressionError."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigcl.data.expression import MAX_DEPTH, Expression, ExpressionError
from bigcl.registry import ConfigError

ROWS = 7
NAMES = {"a": "number", "b": "number", "flag": "truth", "word": "text", "meta.word": "text", "tags": "list"}
WORDS = st.text("abc '\"\\é", max_size=3)
VALUES = {
    "number": st.one_of(st.integers(-5, 5), st.floats(-1e3, 1e3), st.integers(-(2**50), 2**50)),
    "truth": st.booleans(),
    "text": WORDS,
    "list": st.lists(WORDS, max_size=3),
}
COLUMNS = st.fixed_dictionaries(
    {name: st.lists(VALUES[kind], min_size=ROWS, max_size=ROWS) for name, kind in NAMES.items()}
)


def quoted(text):
    """A text in the form that Python and the expressions share."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def spelled(value):
    return quoted(value) if isinstance(value, str) else repr(value)


def leaves(kind):
    constants = {
        "number": st.one_of(st.integers(0, 9), st.floats(0, 1e6)).map(repr),
        "truth": st.sampled_from(["true", "false"]),
        "text": WORDS.map(quoted),
        "list": st.lists(WORDS, max_size=3).map(lambda words: f"[{', '.join(map(quoted, words))}]"),
    }[kind]
    return st.one_of(constants, st.sampled_from([name for name, k in NAMES.items() if k == kind]))


def numbers(depth):
    if depth == 0:
        return leaves("number")
    part = numbers(depth - 1)
    return st.one_of(
        leaves("number"),
        st.builds("{} {} {}".format, part, st.sampled_from("+-*/%"), part),
        st.builds("-{}".format, part),
        st.builds("({})".format, part),
        st.builds("abs({})".format, part),
        st.builds("log({})".format, part),
        st.builds("{}({}, {})".format, st.sampled_from(["min", "max"]), part, part),
        st.builds("len({})".format, st.one_of(leaves("text"), leaves("list"))),
    )


def truths(depth):
    orders = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
    number, text = numbers(max(0, depth - 1)), st.one_of(leaves("text"), leaves("text").map("lower({})".format))
    compared = [
        st.builds("{} {} {}".format, number, orders, number),
        st.builds("{} {} {} {} {}".format, number, orders, number, orders, number),
        st.builds("{} {} {}".format, text, orders, text),
        st.builds("{} {} {}".format, text, st.sampled_from(["in", "not in"]), st.one_of(leaves("list"), text)),
        st.builds("{} in [{}, -2, 0.5]".format, number, st.integers(0, 5)),
        leaves("truth"),
    ]
    if depth == 0:
        return st.one_of(compared)
    part = truths(depth - 1)
    return st.one_of(
        *compared,
        st.builds("{} {} {}".format, part, st.sampled_from(["and", "or"]), part),
        st.builds("not {}".format, part),
        st.builds("({})".format, part),
    )


class Number(float):
    """Arithmetic as the expressions document it: what is undefined is NaN, which stands for null."""

    def __add__(self, other):
        return Number(float(self) + float(other))

    def __sub__(self, other):
        return Number(float(self) - float(other))

    def __mul__(self, other):
        return Number(float(self) * float(other))

    def __truediv__(self, other):
        return Number(float(self) / float(other) if other else math.nan)

    def __mod__(self, other):
        return Number(float(self) % float(other) if other and math.isfinite(self) else math.nan)

    def __neg__(self):
        return Number(-float(self))

    def __eq__(self, other):
        return float(self) == float(other) or (math.isnan(self) and math.isnan(other))

    def __ne__(self, other):
        return not self == other

    __hash__ = float.__hash__


def by_python(text, row):
    """The expression evaluated by Python itself, numbers wrapped in `Number`."""
    import ast

    class Wrap(ast.NodeTransformer):
        def visit_Constant(self, node):
            call = ast.Call(ast.Name("Number", ast.Load()), [node], [])
            return call if type(node.value) in (int, float) else node

        def visit_Attribute(self, node):
            return ast.Name("meta_word", ast.Load())

        def visit_Name(self, node):
            return ast.Constant(node.id == "true") if node.id in ("true", "false") else node

    def propagating(function):
        return lambda *xs: Number(math.nan) if any(map(math.isnan, xs)) else Number(function(*xs))

    scope = {
        "Number": Number,
        "abs": propagating(abs),
        "min": propagating(min),
        "max": propagating(max),
        "log": lambda x: Number(math.log(x) if x > 0 else math.nan),
        "len": lambda x: Number(len(x)),
        "lower": str.lower,
        **{k.replace(".", "_"): Number(v) if NAMES[k] == "number" else v for k, v in row.items()},
    }
    tree = ast.fix_missing_locations(Wrap().visit(ast.parse(text, mode="eval")))
    return bool(eval(compile(tree, "expression", "eval"), scope))


@settings(max_examples=400, deadline=None)
@given(text=truths(3), columns=COLUMNS)
def test_like_python(text, columns):
    found = Expression(text).holds(columns)
    rows = [{name: values[i] for name, values in columns.items()} for i in range(ROWS)]
    expected = [by_python(text, row) for row in rows]
    assert np.broadcast_to(found, ROWS).tolist() == expected, text


ODD = [
    *"()[],'\".\\<>=!+-*/%$\x00\né9 ",
    "and",
    "or",
    "not",
    "in",
    "a",
    "null",
    "true",
    "len",
    "min",
    "1e9",
    "'x'",
    "==",
]


@settings(max_examples=500, deadline=None)
@given(
    st.one_of(
        st.text(),
        st.lists(st.sampled_from(ODD), max_size=12).map(" ".join),
        st.lists(st.sampled_from(ODD)).map("".join),
    )
)
def test_any_text_is_read_or_refused(text):
    try:
        expression = Expression(text)
    except ExpressionError as error:
        assert 0 <= error.place <= len(text)
        return
    values = [None, 1, -0.0, "x", ["x", 2], {"k": 1}, b"x", True, math.nan, 10**400]
    try:
        found = expression.holds({name: values for name in expression.names})
    except ExpressionError as error:
        assert 0 <= error.place < len(text)
    else:
        assert found.dtype == bool and found.shape == (len(values) if expression.names else 1,)


@pytest.mark.parametrize(
    "left, right", [("(", ")"), ("-", ""), ("not ", ""), ("abs(", ")"), ("1 - (", ")"), ("[", "]")]
)
def test_nesting_has_a_limit(left, right):
    with pytest.raises(ExpressionError):
        Expression(left * 100_000 + "1" + right * 100_000)
    if left != "[":
        Expression(left * (MAX_DEPTH // 2 - 1) + "1" + right * (MAX_DEPTH // 2 - 1))


def test_long_chains_have_none():
    text = " or ".join(["a == 1"] * 20_000) + " + 1" * 20_000
    assert Expression(text).holds({"a": [1, 2]}).tolist() == [True, False]


COLUMNS_WITH_GAPS = {
    "width": [100, 300, None, 250],
    "similarity": np.array([0.3, 0.5, 0.9, np.nan]),
    "language": ["en", "de", None, "fr"],
    "tags": [["a"], np.array(["b", "a"]), [], None],
    "nested.x": [1, 2, 3, None],
}


@pytest.mark.parametrize(
    "text, expected",
    [
        ("width >= 200 and similarity > 0.28 and language in ['en', 'de']", "0100"),
        ("width == null", "0010"),
        ("null == width", "0010"),
        ("similarity != null", "1110"),
        ("not width > 200", "1010"),
        ("width + similarity == null", "0011"),
        ("width / 0 == null and log(0 - width) == null", "1111"),
        ("1 < nested.x <= 3", "0110"),
        ("len(tags) > 0", "1100"),
        ("'a' in tags", "1100"),
        ("'n' in language", "1000"),
        ("language not in ['en', null]", "0101"),
        ("lower(language) < 'e'", "0100"),
        ("tags", "1100"),
        ("-width % 7 == 5", "1000"),
        ("2 * 3 + 4 * -1 == 2 and not 1 + 1 == 3 or width", "1111"),
        ('language == "d\\e"', "0100"),
    ],
)
def test_columns_with_gaps(text, expected):
    columns = {k: v for k, v in COLUMNS_WITH_GAPS.items() if k in Expression(text).names}
    assert "".join(str(int(x)) for x in Expression(text).holds(columns)) == expected


@pytest.mark.parametrize(
    "text, message, place",
    [
        ("width >= 200 and", "expected a value, not the end", 16),
        ("width 200", "expected an operator, found '200'", 6),
        ("widh(3)", "no function 'widh'; known", 0),
        ("lenn(3)", "no function 'lenn'; did you mean 'len'?", 0),
        ("(width", "expected ')', found 'the end'", 6),
        ("a in [1, b]", "expected a constant, found 'b'", 9),
        ("a == 'x", "a text without its closing quote", 5),
        ("a ~ 2", "'~' has no meaning", 2),
        ("12px < a", "'12px' has no meaning", 0),
        ("len(a, b)", "len does not take 2 values", 0),
        ("1 + not a", "expected a value, found 'not'", 4),
    ],
)
def test_errors_point_at_the_place(text, message, place):
    with pytest.raises(ConfigError) as caught:
        Expression(text)
    first, line, caret = str(caught.value).split("\n")
    assert message in first and line == f"  {text}" and caret == "  " + " " * place + "^"


@pytest.mark.parametrize(
    "text, place",
    [("1 < width and language > width", 23), ("language + 1", 9), ("len(width)", 0), ("lower(tags) == 'a'", 0)],
)
def test_values_that_do_not_fit(text, place):
    expression = Expression(text)
    with pytest.raises(ExpressionError, match=r"number|text") as caught:
        expression.holds({name: COLUMNS_WITH_GAPS[name] for name in expression.names})
    assert caught.value.place == place

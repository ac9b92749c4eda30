"""Text cleaning: what each mode does, and that plain text may skip the repair."""

import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigcl.data import cleaning
from bigcl.data.cleaning import clean_text
from bigcl.data.transforms.text import CleanText


@pytest.mark.parametrize(
    "text, whitespace, lower, canonical",
    [
        ("  A\tcat's \n toy_box!  ", "A cat's toy_box!", "a cat's toy_box!", "a cats toy box"),
        ("", "", "", ""),
        ("Plain text", "Plain text", "plain text", "plain text"),
    ],
)
def test_modes(text, whitespace, lower, canonical):
    assert [clean_text(text, mode) for mode in ("whitespace", "lower", "canonicalize")] == [
        whitespace,
        lower,
        canonical,
    ]


def test_repairs():
    pytest.importorskip("ftfy")
    assert clean_text("Caf\u00c3\u00a9 &amp;amp; bar &lt;3", "whitespace") == "Café & bar <3"


@given(st.text(alphabet=string.printable.replace("&", ""), max_size=60))
def test_plain_text_needs_no_repair(text):
    """What skips it is what it would leave alone."""
    ftfy = pytest.importorskip("ftfy")
    if cleaning._PLAIN.fullmatch(text):
        assert cleaning.html.unescape(ftfy.fix_text(text)) == text


def test_the_transform():
    example = {"text": b" A  B ", "image": 1}
    assert CleanText("lower")(example, np.random.default_rng(0)) == {"text": "a b", "image": 1}

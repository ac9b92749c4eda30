"""Text as published models expect it before their tokenizer."""

import html
import re
import string
from typing import Literal

Cleaning = Literal["whitespace", "lower", "canonicalize"]
_PLAIN = re.compile(r"[ -%'-~\t\n]*")  # ASCII without "&": there is nothing to repair
_PUNCTUATION = str.maketrans("_", " ", string.punctuation.replace("_", ""))


def clean_text(text: str, mode: Cleaning) -> str:
    """Repairs and normalises a text.

    All modes undo broken encodings (`ftfy`; `pip install "bigcl[clip]"`) and HTML escapes. Then "whitespace" makes one
    space of every run of white space, "lower" also lower-cases (CLIP), and "canonicalize" also removes ASCII
    punctuation, of which "_" becomes a space (SigLIP).
    """
    if not _PLAIN.fullmatch(text):
        text = html.unescape(html.unescape(repair(text)))  # twice, for text that was escaped twice
    if mode == "canonicalize":
        text = text.translate(_PUNCTUATION)
    if mode != "whitespace":
        text = text.lower()
    return " ".join(text.split())


def repair(text: str) -> str:
    """Undoes broken encodings."""
    try:
        import ftfy
    except ImportError as error:
        raise ImportError('cleaning text needs ftfy: pip install "bigcl[clip]"') from error
    return ftfy.fix_text(text)

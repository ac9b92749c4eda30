"""Words of a text and what part of speech each is: from a lexicon, or by spaCy."""

import importlib
import json
import pathlib
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

from bigcl.registry import ConfigError, nearest

PartOfSpeech = Literal["noun", "adjective", "adverb", "verb", "auxiliary", "determiner"]
UNIVERSAL = {
    "NOUN": "noun",
    "PROPN": "noun",
    "ADJ": "adjective",
    "ADV": "adverb",
    "VERB": "verb",
    "AUX": "auxiliary",
    "DET": "determiner",
}
"""Names of the Universal Dependencies, of which spaCy's tags are."""

_TOKEN = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")


class Word(NamedTuple):
    """The characters start to stop - 1 of a text, a word or a mark, and its part of speech; "" for others."""

    start: int
    stop: int
    part: str


Tagger = Callable[[str], list[Word]]


def tagger(words: Mapping[str, Sequence[str]] | str) -> Tagger:
    """What finds the words of a text.

    words: for each part of speech (noun, adjective, adverb, verb, auxiliary, determiner) its words, in any case; the
        .json file of such a dict; or the name or folder of a spaCy pipeline, such as "en_core_web_sm". Of a word that
        is listed twice, the first counts.

    Raises ConfigError for another part of speech and for a pipeline that is not installed, ImportError without spaCy.
    """
    if not isinstance(words, str):
        return Lexicon(words)
    return Lexicon(json.loads(pathlib.Path(words).read_text("utf-8"))) if words.endswith(".json") else SpaCy(words)


class Lexicon:
    """A tagger that knows each word by itself."""

    def __init__(self, words: Mapping[str, Sequence[str]]):
        self.parts: dict[str, str] = {}
        for part, members in words.items():
            if part not in get_args(PartOfSpeech):
                raise ConfigError(f"words: unknown part of speech {part!r}; {nearest(part, get_args(PartOfSpeech))}")
            for word in members:
                self.parts.setdefault(word.lower(), part)

    def __call__(self, text: str) -> list[Word]:
        return [Word(*m.span(), self.parts.get(m[0].lower(), "")) for m in _TOKEN.finditer(text)]


class SpaCy:
    """A tagger by a pipeline of spaCy, which each process loads for itself."""

    def __init__(self, name: str):
        self.name, self.pipeline, self.lock = name, load(name), threading.Lock()

    def __call__(self, text: str) -> list[Word]:
        with self.lock:  # a pipeline adds to its vocabulary
            words = [t for t in self.pipeline(text) if not t.is_space]
        return [Word(t.idx, t.idx + len(t), UNIVERSAL.get(t.pos_, "")) for t in words]

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return SpaCy, (self.name,)


def load(name: str) -> Any:
    """A spaCy pipeline without what tagging does not need."""
    try:
        spacy = importlib.import_module("spacy")
    except ImportError as error:
        raise ImportError('parts of speech by a pipeline need spaCy: pip install "bigcl[words]"') from error
    try:
        return spacy.load(name, exclude=["parser", "ner", "lemmatizer"])
    except OSError as error:
        raise ConfigError(
            f"words: no spaCy pipeline {name!r}; `python -m spacy download {name}` installs it"
        ) from error

"""Parts of speech by a real pipeline of spaCy, whose rules are our own: a model is a download."""

import pickle

import pytest

from bigcl import registry
from bigcl.data.parts_of_speech import tagger
from bigcl.registry import ConfigError
from tests.data.test_word_order import CAPTION, WORDS

spacy = pytest.importorskip("spacy")

TAGS = {"noun": "NOUN", "adjective": "ADJ", "adverb": "ADV", "verb": "VERB", "auxiliary": "AUX", "determiner": "DET"}


def test_a_pipeline_and_a_lexicon_find_the_same_words(tmp_path):
    pipeline = spacy.blank("en")
    ruler = pipeline.add_pipe("attribute_ruler")
    for part, words in WORDS.items():
        ruler.add([[{"LOWER": {"IN": words}}]], {"POS": TAGS[part]})
    pipeline.to_disk(tmp_path / "words")
    tag = tagger(str(tmp_path / "words"))
    for text in (CAPTION, "  a red dog,\n the cat", ""):
        assert tag(text) == tagger(WORDS)(text)
        assert pickle.loads(pickle.dumps(tag))(text) == tag(text)
    registry.build("transform", {"kind": "swap_words", "words": str(tmp_path / "words")})
    with pytest.raises(ConfigError, match="no spaCy pipeline 'nothing'; `python -m spacy download nothing`"):
        tagger("nothing")

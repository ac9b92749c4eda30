"""Sentence encoders as sentence-transformers writes them: same embeddings here, or a refusal that names what is not."""

import json

import numpy as np
import pytest

pytest.importorskip("sentence_transformers", reason="compares with it: pip install '.[interop-test]'")

import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules

from bigcl.convert import convert, read_model
from bigcl.data.tokenizers import train_bpe
from bigcl.interop.files import BadFile
from bigcl.interop.model import Inexpressible, load

TEXTS = ["the cat sat", "On The MAT", "the cat sat on the mat and on the cat and on the mat, and sat and sat"]
TOLERANCE = 1e-5  # of embeddings of length 1


def encoder(folder, length=12, lower=False):
    """A BERT with random weights and a tokenizer, as the first module."""
    trained = train_bpe(iter(TEXTS * 5), 300)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=trained, pad_token="<pad>", model_max_length=30)
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 36}
    config = transformers.BertConfig(vocab_size=len(tokenizer), max_position_embeddings=40, pad_token_id=0, **sizes)
    peer = transformers.BertModel(config)
    with torch.no_grad():
        for weight in peer.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1)
    peer.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return modules.Transformer(str(folder), max_seq_length=length, do_lower_case=lower)


def dense(activation=None, bias=True):
    return modules.Dense(24, 10, bias=bias, activation_function=activation or torch.nn.Identity())


@pytest.mark.parametrize(
    "mode, after, length, lower",
    [
        ("mean", [modules.Normalize], 12, False),
        ("cls", [dense, modules.Normalize], 9, True),
        ("mean", [lambda: dense(bias=False)], None, False),
    ],
)
def test_the_same_embeddings(mode, after, length, lower, tmp_path):
    """Of texts that are longer than it takes, and in capitals; with the files that sentence-transformers writes now."""
    first = encoder(tmp_path / "encoder", length, lower)
    peer = SentenceTransformer(modules=[first, modules.Pooling(24, mode), *(m() for m in after)], device="cpu")
    peer.save(str(tmp_path / "peer"))
    assert json.loads((tmp_path / "peer" / "1_Pooling" / "config.json").read_text())["pooling_mode"] == mode
    convert("transformers", tmp_path / "peer", tmp_path / "out")
    model = load(tmp_path / "out")
    tower = model.tower("text")
    assert tower["length"] == peer.max_seq_length == (length or 30)
    found = model.encode({"text": model.tokenizer(TEXTS, tower["length"])})["text"]
    expected = SentenceTransformer(str(tmp_path / "peer"), device="cpu").encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    "made, message",
    [
        (lambda: [modules.Pooling(24, "max")], r"1_Pooling/config.json: pools by 'max'; bigcl has mean, cls"),
        (lambda: [modules.Pooling(24, ("mean", "cls"))], r"pools by \['mean', 'cls'\]"),
        (lambda: [modules.Pooling(24), dense(torch.nn.Tanh())], "2_Dense/config.json: activation_function = .*Tanh"),
        (lambda: [modules.Pooling(24), modules.LayerNorm(24)], "modules.json: 'Transformer, Pooling, LayerNorm'"),
        (lambda: [modules.Pooling(24), modules.Normalize(), dense()], "'Transformer, Pooling, Normalize, Dense'"),
    ],
)
def test_other_modules_are_refused_by_name(made, message, tmp_path):
    peer = SentenceTransformer(modules=[encoder(tmp_path / "encoder"), *made()], device="cpu")
    peer.save(str(tmp_path / "peer"))
    with pytest.raises(Inexpressible, match=message):
        read_model("transformers", tmp_path / "peer")


@pytest.mark.parametrize(
    "file, text, message",
    [
        ("modules.json", "{}", "modules.json: expected a JSON list"),
        ("modules.json", "[1]", r"modules.json: \[0\] = 1: expected a JSON object"),
        (
            "modules.json",
            '[{"type": "x.Transformer", "path": "../y"}]',
            r"path = '../y': expected the name of a folder",
        ),
        ("sentence_bert_config.json", '{"max_seq_length": 0}', "max_seq_length = 0: expected a whole number"),
        ("1_Pooling/config.json", '{"pooling_mode": {}}', r"pools by \{\}"),
    ],
)
def test_damaged_files_are_named(file, text, message, tmp_path):
    encoder(tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    (tmp_path / file).write_text(text)
    with pytest.raises((BadFile, Inexpressible), match=message):
        read_model("transformers", tmp_path)

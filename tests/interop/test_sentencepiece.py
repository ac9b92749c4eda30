"""A SentencePiece model that leaves gives the same ids in the libraries that read it there, or stays behind."""

import importlib
import inspect
import json
import re
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("sentencepiece", reason="trains its models: pip install '.[test]'")

import sentencepiece as spm

from bigcl import export as command
from bigcl.convert import convert
from bigcl.data.cleaning import clean_text
from bigcl.data.tokenizers import FILE, SentencePiece, TokenizersJSON
from bigcl.interop import files, proof, sentencepiece
from bigcl.interop.model import load, save
from bigcl.registry import ConfigError
from tests.interop.models import CLIP, PEERS, SIGLIP, make

LANGUAGES = ("en", "de", "fr", "ja", "ko", "ar", "ru", "tr")
MODELS = {
    "unigram": {},
    "as it is": {"normalization_rule_name": "identity"},
    "folded": {"normalization_rule_name": "nmt_nfkc_cf", "pad_id": 3},
    "with its blanks": {"remove_extra_whitespaces": False},
    "without prefix": {"add_dummy_prefix": False, "normalization_rule_name": "nfkc"},
    "bytes": {"byte_fallback": True, "vocab_size": 1700, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
    "symbols": {"user_defined_symbols": ["<sep>", "hello", "日本"], "control_symbols": ["[CLS]", "[MASK]"]},
    "few characters": {"character_coverage": 0.98},
    "across words": {"split_by_whitespace": False},
    "bpe": {"model_type": "bpe"},
    "bpe of bytes": {
        "model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False, "add_dummy_prefix": False, "vocab_size": 1700,
    },
}  # fmt: skip
MARKS = (
    "Mn",
    "Mc",
    "Me",
)  # in texts of arbitrary characters: where they stand alone they may get other ids, as is said
ANY = st.characters(
    exclude_categories=("Cs", *MARKS), exclude_characters=[*sentencepiece.PLACEHOLDERS, "\uff9e", "\uff9f"]
)


@pytest.fixture(scope="session")
def lines():
    """Names of emoji in eight languages, and docstrings."""
    emoji = pytest.importorskip("emoji")
    for language in LANGUAGES:
        importlib.import_module("emoji.unicode_codes").load_from_json(language)
    names = [
        e[k].strip(":").replace("_", " ") for e in list(emoji.EMOJI_DATA.values())[::8] for k in LANGUAGES if k in e
    ]
    modules = map(importlib.import_module, ("argparse", "collections", "decimal", "json", "pathlib", "random"))
    documented = [x for m in modules for x in vars(m).values() if inspect.isclass(x) or inspect.isfunction(x)]
    return [*names, *(line for x in documented for line in (inspect.getdoc(x) or "").split("\n") if line.strip())]


@pytest.fixture(scope="session")
def train(lines, tmp_path_factory):
    """Trains a model with these options, once."""
    folder, made = tmp_path_factory.mktemp("models"), {}

    def trained(**options):
        name = json.dumps(options)
        if name not in made:
            made[name] = str(folder / str(len(made)))
            usual = {"vocab_size": 1400, "minloglevel": 2, "num_threads": 1, "character_coverage": 0.99}
            spm.SentencePieceTrainer.train(
                sentence_iterator=iter(lines), model_prefix=made[name], **{**usual, **options}
            )
        return f"{made[name]}.model"

    return trained


QUICK = ("unigram", "folded", "bytes", "bpe")


@pytest.fixture(
    scope="session", params=[pytest.param(k, marks=[] if k in QUICK else [pytest.mark.slow]) for k in MODELS]
)
def pair(request, train):
    """A model, and the same as a tokenizer.json."""
    tokenizer = SentencePiece(train(**MODELS[request.param]))
    return tokenizer, sentencepiece.as_file(tokenizer)


def test_real_texts_composed_and_decomposed(pair, lines):
    ours, theirs = pair
    assert len(lines) > 3_000
    for form in ("NFC", "NFD"):
        texts = [unicodedata.normalize(form, line) for line in lines]
        np.testing.assert_array_equal(theirs(texts, 32), ours(texts, 32))


@given(text=st.text(ANY, max_size=30))
@settings(max_examples=150, deadline=None)
def test_any_text(pair, text):
    ours, theirs = pair
    if ours.model.encode(text) != ours.model.encode("\x07"):  # nothing but characters that are left out
        np.testing.assert_array_equal(theirs(text, 40), ours(text, 40))


@given(text=st.text("ab -!.e1<>/s▁", max_size=16))
@settings(max_examples=150, deadline=None)
def test_blanks_repetitions_and_marks(pair, text):
    ours, theirs = pair
    found, expected = theirs(text, 24), ours(text, 24)
    # Of equal scores SentencePiece rounds to float32: the same pieces may come in another order.
    ties = len(set(text)) < 3 or re.search(r"(.)\1\1", text)
    np.testing.assert_array_equal(*(map(np.sort, (found, expected)) if ties else (found, expected)))


def test_marks_padding_and_cleaning(train):
    """No text gets a mark, even spelt out; the end, the padding and the length are those of the model."""
    ours = SentencePiece(train(**MODELS["bytes"]), clean="canonicalize")
    theirs = sentencepiece.as_file(ours)
    assert (theirs.pad_id, theirs.prefix, theirs.suffix, theirs.clean) == (0, [], [1], "canonicalize")
    assert theirs.vocab_size == ours.vocab_size and theirs("The_CAT!", 12).tolist() == ours("The_CAT!", 12).tolist()
    spelt = "<pad></s><unk><0x41>"
    ids = theirs.model.encode(spelt, add_special_tokens=False).ids
    assert ids == ours.model.encode(spelt) and min(ids) > 2 and theirs.model.decode(ids) == spelt
    assert theirs.decode(theirs("a cat <s> sat", 20)) == ours.decode(ours("a cat <s> sat", 20)) == "a cat s sat"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"model_type": "char"}, "model_type CHAR"),
        ({"model_type": "word", "vocab_size": 300}, "model_type WORD"),
        ({"treat_whitespace_as_suffix": True}, "treat_whitespace_as_suffix"),
        ({"model_type": "bpe", "user_defined_symbols": ["<sep>"]}, "user-defined symbols in a BPE model"),
        (
            {"byte_fallback": True, "vocab_size": 1700, "control_symbols": ["\u16a0\u16a1"]},
            "tells a text 'ᚠᚡ' from the mark",
        ),
    ],
)
def test_what_has_no_form_is_refused_by_name(options, message, train):
    with pytest.raises(ConfigError, match=message):
        sentencepiece.as_file(SentencePiece(train(**options)))


def test_other_ids_are_found_and_the_tokenizer_stays_behind(train, tmp_path, monkeypatch, capsys):
    run(tmp_path, CLIP, train())
    monkeypatch.setattr(sentencepiece, "space_steps", lambda spec: [sentencepiece.hf.normalizers.Replace(" ", "▁")])
    assert load(tmp_path).tokenizer is None
    said = capsys.readouterr().out
    assert "the tokenizer stays behind" in said and "a tokenizer.json gives" in said


def run(folder, towers, path, **options):
    """A saved model whose run had this SentencePiece tokenizer."""
    tokenizer = SentencePiece(path, **options)
    towers = {**towers, "text": {**towers["text"], "pool": "last"}}
    save(make(towers, tokenizer, "sigmoid", "shortest"), folder)
    (folder / FILE).unlink(missing_ok=True)
    tokenizer.save(folder / FILE)
    config = files.read_json(folder / "config.json")
    files.write_json(
        {**config, "tokenizer": {"kind": "sentencepiece", "path": path, **options}}, folder / "config.json"
    )
    return tokenizer


@PEERS
@pytest.mark.slow
@pytest.mark.parametrize("kind, clean", [("unigram", None), ("bytes", "canonicalize"), ("bpe", "lower")])
def test_the_targets_tokenize_the_same(kind, clean, train, lines, tmp_path):
    """By their own loaders, and within the proof of the export."""
    ours = run(tmp_path / "run", SIGLIP, train(**MODELS[kind]), **({"clean": clean} if clean else {}))
    figures = command.export(tmp_path / "run", "transformers", tmp_path / "hf")
    assert proof.passed(figures) and figures["ids"] == 0
    import transformers

    repaired = [clean_text(line, "whitespace") for line in lines[::40]]  # which no tokenizer.json does
    texts = repaired if clean else [*lines[::40], *sentencepiece.HARD]
    full = {"padding": "max_length", "truncation": True, "return_tensors": "np"}
    for theirs in (transformers.AutoTokenizer, transformers.AutoProcessor):
        opened = theirs.from_pretrained(tmp_path / "hf")
        np.testing.assert_array_equal(opened(text=texts, **full)["input_ids"], ours(texts, 12))

    run(tmp_path / "other", CLIP, train(**MODELS[kind]), **({"clean": clean} if clean else {}))
    figures = command.export(tmp_path / "other", "open_clip", tmp_path / "clip")
    assert proof.passed(figures) and figures["ids"] == 0
    import open_clip

    opened = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'clip'}")
    np.testing.assert_array_equal(opened(repaired).numpy(), ours(repaired, 12))


@PEERS
def test_a_siglip_folder_with_a_sentencepiece_model(train, tmp_path, lines):
    """As transformers writes it: the ids are those of its own tokenizer, and stay so when it leaves again."""
    import transformers

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 36}
    vision = {**sizes, "image_size": 16, "patch_size": 8}
    path = train(**MODELS["unigram"])
    peer = transformers.SiglipTokenizer(path, model_max_length=12)
    text = {**sizes, "vocab_size": peer.vocab_size, "max_position_embeddings": 12}
    transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(
        tmp_path / "peer"
    )
    peer.save_pretrained(tmp_path / "peer")
    assert (tmp_path / "peer" / "spiece.model").exists() and not (tmp_path / "peer" / FILE).exists()

    convert("transformers", tmp_path / "peer", tmp_path / "in")
    command.export(tmp_path / "in", "transformers", tmp_path / "out", verify=False)
    texts = [*(line for line in lines[::40] if "_" not in line), "Hello, World! <s>", "", "  a  b\t"]
    expected = peer(texts, padding="max_length", truncation=True, return_tensors="np")["input_ids"]
    np.testing.assert_array_equal(load(tmp_path / "in").tokenizer(texts, 12), expected)
    left = TokenizersJSON(str(tmp_path / "out" / FILE))
    np.testing.assert_array_equal(left(texts, 12), expected)

"""Ids have the agreed shape, any text can be encoded, and a saved tokenizer is the same tokenizer."""

import gzip
import pickle

import numpy as np
import pytest
import tokenizers as hf
from hypothesis import given, settings
from hypothesis import strategies as st

from bigcl.data.sources.arrayrecord import write_arrayrecord
from bigcl.data.tokenizers import BPE, CLIP, SentencePiece, TokenizersJSON, texts_of, train_bpe

TEXTS = ["the cat sat on the mat", "The dog sat on the log", "der Hund und die Katze", "猫がマットに座った"] * 5


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("bpe") / "tokenizer.json"
    train_bpe(iter(TEXTS), 300).save(str(path))
    return str(path)


@pytest.fixture(scope="module")
def tokenizer(path):
    return TokenizersJSON(path)


def test_special_ids(tokenizer):
    assert (tokenizer.pad_id, tokenizer.prefix, tokenizer.suffix) == (0, [1], [tokenizer.vocab_size - 1])
    assert 256 + 3 < tokenizer.vocab_size <= 300


def test_padding(tokenizer):
    ids = tokenizer("the cat", 12)
    end = int(ids.argmax())
    assert ids.dtype == np.int32 and ids.shape == (12,)
    assert ids[0] == 1 and ids[end] == tokenizer.vocab_size - 1 and end > 1
    assert (ids[end + 1 :] == 0).all() and (ids[:end] != 0).all()


@given(text=st.text(max_size=60), length=st.integers(2, 40))
@settings(max_examples=100, deadline=None)
def test_any_text_has_one_beginning_and_one_end(tokenizer, text, length):
    ids = tokenizer(text, length)
    assert ids.shape == (length,) and ids[0] == 1
    assert (ids == 1).sum() == (ids == tokenizer.vocab_size - 1).sum() == 1


def test_truncation_keeps_the_end(tokenizer):
    whole, cut = tokenizer("the cat sat on the mat", 40), tokenizer("the cat sat on the mat", 5)
    assert cut[:4].tolist() == whole[:4].tolist() and cut[4] == tokenizer.vocab_size - 1
    with pytest.raises(ValueError, match="length of 1 has no room"):
        tokenizer("cat", 1)


def test_a_list_of_texts(tokenizer):
    ids = tokenizer(["the cat", "dog"], 9)
    assert ids.shape == (2, 9) and np.array_equal(ids[1], tokenizer("dog", 9))
    assert tokenizer([], 9).shape == (0, 9)


def test_case_and_compatibility_forms_do_not_matter(tokenizer):
    assert np.array_equal(tokenizer("The CAT", 12), tokenizer("the cat", 12))
    assert np.array_equal(tokenizer("ｃａｔ", 12), tokenizer("cat", 12))


@given(text=st.text(max_size=40))
@settings(max_examples=50, deadline=None)
def test_no_character_is_lost(tokenizer, text):
    normal = tokenizer.model.normalizer.normalize_str(text)
    ids = [i for i in tokenizer(text, 400).tolist() if i not in (0, 1, tokenizer.vocab_size - 1)]
    assert tokenizer.model.decode(ids).removeprefix(" ") == normal.removeprefix(" ")


def test_a_text_that_spells_a_mark_gets_no_mark(tokenizer):
    ids = tokenizer("a <eos> b <bos> <pad> c", 60)
    assert (ids == tokenizer.vocab_size - 1).sum() == (ids == 1).sum() == 1


def test_training_depends_on_the_texts_alone():
    first, again, reversed_ = (train_bpe(iter(t), 290).to_str() for t in (TEXTS, TEXTS, TEXTS[::-1]))
    assert first == again == reversed_
    assert train_bpe(iter(TEXTS[1:] + ["zebra zebra zebra"] * 9), 290).to_str() != first


def test_save_and_pickle_keep_everything(tokenizer, path, tmp_path):
    tokenizer.save(tmp_path / "saved.json")
    for other in (TokenizersJSON(str(tmp_path / "saved.json")), pickle.loads(pickle.dumps(tokenizer))):
        assert (other.vocab_size, other.pad_id) == (tokenizer.vocab_size, tokenizer.pad_id)
        for text in [*TEXTS[:4], "<eos>"]:
            assert np.array_equal(other(text, 20), tokenizer(text, 20))
    padded = TokenizersJSON(path, pad_id=5)
    padded.save(tmp_path / "padded.json")
    assert TokenizersJSON(str(tmp_path / "padded.json"))("cat", 20)[-1] == padded("cat", 20)[-1] == 5


def test_files_of_other_shapes(tmp_path):
    """No marks at all; and, as SigLIP, an end mark that is also the padding."""
    vocab = {"<unk>": 0, "</s>": 1, "a": 2, "b": 3}
    model = hf.Tokenizer(hf.models.WordLevel(vocab, unk_token="<unk>"))
    model.pre_tokenizer = hf.pre_tokenizers.Whitespace()
    model.save(str(tmp_path / "plain.json"))
    plain = TokenizersJSON(str(tmp_path / "plain.json"))
    assert plain("a b c", 5).tolist() == [2, 3, 0, 0, 0] and plain.vocab_size == 4
    model.add_special_tokens(["</s>"])
    model.post_processor = hf.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    model.enable_padding(pad_id=1, pad_token="</s>", length=64)
    model.enable_truncation(3)
    model.save(str(tmp_path / "marked.json"))
    marked = TokenizersJSON(str(tmp_path / "marked.json"))
    assert marked("a b", 5).tolist() == [2, 3, 1, 1, 1] and marked("a b a b a b", 5).tolist() == [2, 3, 2, 3, 1]


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"no file nowhere/tokenizer\.json"):
        TokenizersJSON("nowhere/tokenizer.json")


def test_bpe_is_trained_once_on_the_texts_of_a_source(tmp_path, monkeypatch):
    monkeypatch.setenv("BIGCL_DATA", str(tmp_path / "root"))
    write_arrayrecord([{"names": {"en": t, "x": t[::-1]}} for t in TEXTS], tmp_path / "data")
    part = {"kind": "arrayrecord", "paths": str(tmp_path / "data")}
    first = BPE(part, key="names", vocab_size=300)
    expected = train_bpe((text for t in TEXTS for text in (t, t[::-1])), 300)
    assert first.model.get_vocab() == expected.get_vocab()
    assert len(list((tmp_path / "root").glob("bpe-*/tokenizer.json"))) == 1
    monkeypatch.setattr("bigcl.data.tokenizers.train_bpe", lambda *a: pytest.fail("trained again"))
    assert np.array_equal(BPE(part, key="names", vocab_size=300)("the cat", 9), first("the cat", 9))


def test_bpe_needs_a_text_of_some_examples_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("BIGCL_DATA", str(tmp_path / "root"))
    odd = [{"text": None}, {"text": b"\xff"}, {"label": 3}, {"text": [None, TEXTS[0]]}]
    write_arrayrecord([*odd, *({"text": t} for t in TEXTS[1:])], tmp_path / "data")
    part = {"kind": "arrayrecord", "paths": str(tmp_path / "data")}
    assert BPE(part, vocab_size=300).model.get_vocab() == train_bpe(iter(TEXTS), 300).get_vocab()
    with pytest.raises(ValueError, match=r"no example of arrayrecord .*data has a text at 'txt'"):
        BPE(part, key="txt")


def test_texts_of():
    assert texts_of("a") == texts_of(b"a") == texts_of(["a", None]) == texts_of({"en": b"a", "de": None}) == ["a"]
    assert texts_of(None) == []
    assert texts_of({"en": "a", "de": "b"}) == ["a", "b"]


class TestCLIP:
    """A small vocabulary in the format of the published one; the published one is compared in tests/interop."""

    MERGES = ("c a", "ca t</w>", "d o", "do g</w>", "a</w> n")

    @pytest.fixture(params=[True, False], ids=["packed", "unpacked"])
    def tokenizer(self, request, tmp_path, monkeypatch):
        monkeypatch.setenv("BIGCL_DATA", str(tmp_path / "root"))
        path = tmp_path / "vocabulary.txt"
        content = "\n".join(["version", *self.MERGES, ""]).encode()
        path.write_bytes(gzip.compress(content) if request.param else content)
        monkeypatch.setattr("bigcl.data.tokenizers._CLIP_MERGES", len(self.MERGES))
        return CLIP(str(path))

    def test_ids(self, tokenizer):
        begin, end = 512 + 5, 512 + 6
        assert tokenizer.vocab_size == 512 + 5 + 2 and tokenizer.pad_id == 0
        assert tokenizer("Cat  DOG", 6).tolist() == [begin, 512 + 1, 512 + 3, end, 0, 0]
        assert tokenizer("!", 3).tolist() == [begin, 256, end]  # the first of 256 bytes, at the end of a word
        assert tokenizer("cat dog cat", 4).tolist() == [begin, 512 + 1, 512 + 3, end]
        assert tokenizer.decode(tokenizer("a cat's dog", 20)) == "a cat 's dog "

    def test_saved_and_read_again(self, tokenizer, tmp_path):
        tokenizer.save(tmp_path / "tokenizer.json")
        again = TokenizersJSON(str(tmp_path / "tokenizer.json"), clean="lower")
        assert np.array_equal(again("The cat's DOG, 12", 20), tokenizer("The cat's DOG, 12", 20))

    def test_a_text_that_spells_a_mark_gets_no_mark(self, tokenizer):
        ids = tokenizer("<end_of_text> cat <start_of_text>", 60)
        assert (ids == 517).sum() == (ids == 518).sum() == 1

    def test_another_file_is_refused(self, tmp_path):
        (tmp_path / "other.txt").write_text("one two three\n" * 9)
        with pytest.raises(ValueError, match="no list of merges"):
            CLIP(str(tmp_path / "other.txt"))


class TestSentencePiece:
    @pytest.fixture(scope="class")
    def path(self, tmp_path_factory):
        sentencepiece = pytest.importorskip("sentencepiece")
        path = tmp_path_factory.mktemp("spm") / "spm.model"
        with path.open("wb") as file:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(TEXTS),
                model_writer=file,
                vocab_size=34,
                pad_id=0,
                eos_id=1,
                unk_id=2,
                bos_id=-1,
                minloglevel=2,
            )
        return str(path)

    def test_text_end_padding(self, path):
        tokenizer = SentencePiece(path)
        ids = tokenizer("the cat", 30)
        end = ids.tolist().index(1)
        assert tokenizer.vocab_size == 34 and ids.dtype == np.int32 and ids.shape == (30,)
        assert tokenizer.model.decode(ids[:end].tolist()) == tokenizer.decode(ids) == "the cat"
        assert (ids[end + 1 :] == 0).all() and tokenizer("the cat sat on the mat", 4)[-1] == 1
        assert tokenizer(["the cat", "dog"], 9).shape == (2, 9) and tokenizer([], 9).shape == (0, 9)

    def test_cleaning(self, path):
        tokenizer = SentencePiece(path, clean="canonicalize")
        assert np.array_equal(tokenizer("The CAT!", 9), tokenizer("the cat", 9))

    def test_save_and_pickle_keep_everything(self, path, tmp_path):
        tokenizer = SentencePiece(path)
        tokenizer.save(tmp_path / "tokenizer.json")
        for other in (SentencePiece(str(tmp_path / "tokenizer.model")), pickle.loads(pickle.dumps(tokenizer))):
            assert np.array_equal(other("the dog", 20), tokenizer("the dog", 20)) and other.vocab_size == 34

    def test_a_missing_file_is_named(self):
        pytest.importorskip("sentencepiece")
        with pytest.raises(FileNotFoundError, match=r"no file nowhere/spm\.model"):
            SentencePiece("nowhere/spm.model")

"""SentencePiece models as files of the `tokenizers` library, which is what transformers and open_clip read.

transformers' own converter has other rules for white space, reads marks that a text spells as marks, and loses
combining marks, so that the ids are not those of the model."""

import pathlib
import tempfile
from collections.abc import Collection, Sequence
from typing import Any

import tokenizers as hf

from bigcl.data.tokenizers import FILE, SentencePiece, TokenizersJSON
from bigcl.registry import ConfigError

UNIGRAM, BPE = 1, 2
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Numbers of `sentencepiece_model.proto`: types of models and of pieces."""

SPACE = "▁"
PLACEHOLDERS = "\ufdd0", "\ufdd1"  # of no meaning in any text: Unicode keeps them for the inner workings of programs

HARD = (
    "", " ", "   ", " leading", "trailing ", "two  spaces   three", "tab\there", "new\nline\r\nend", "\n",
    "no-break\u00a0space\u3000wide\u200bnone\u2028line", SPACE, f"{SPACE}{SPACE}a {SPACE} b{SPACE}", "\ufeffmark",
    "<unk>", "a<s>b</s>", "<pad> [CLS]", "<0x41>", "< /s>", "a < b <= c", "\x00\x01\x07\x1b\x7f\x85", "a\x00b\ufffd",
    "CamelCase snake_case", "http://x.org/z?a=b&c=d#e", "3.14 1,000 1234567890", "e" * 30, "hahahaha!!!!!!! -----",
    "ｆｕｌｌ　ｗｉｄｔｈ １２３～", "ﬁne ligature ①② ½ ² ª µ ĳ", "ｶﾞ", "カ\u3099", "\uff21\u0301", "X\u0302x",
    "café", "cafe\u0301", "Việt Nam", "Vie\u0323\u0302t Nam", "İstanbul ǅ ẞ straße ΑΣ Σ",
    "👩🏽‍🚀👨‍👩‍👧‍👦", "🐈‍⬛ 🇩🇪🇫🇷 ❤️ ™️ ©️ ℹ️ 1️⃣", "\U0010ffff\ue000",
    "東京の夜景", "中文，测试。", "한국어 테스트", "\u1112\u1161\u11ab\u1100\u1173\u11af", "عربي سلام\u200cها",
    "हिन्दी परीक्षण", "ไทย ทำ", "עברית", "русский Текст",
)  # fmt: skip
"""Texts of which the ids are compared whenever a model is written."""


def as_file(tokenizer: SentencePiece) -> TokenizersJSON:
    """The same tokenizer as a tokenizer.json, with what is done to a text first. Raises ConfigError as below."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / FILE
        as_tokenizers(tokenizer).save(str(path))
        return TokenizersJSON(str(path), clean=tokenizer.clean)


def as_tokenizers(tokenizer: SentencePiece) -> hf.Tokenizer:
    """The same tokenizer for the `tokenizers` library: ids, end mark and padding; not what is done to a text first.

    Raises ConfigError for a model that the library has no form for, and if any of the texts in `HARD` or any piece of
    the vocabulary gets other ids there.
    """
    from sentencepiece import sentencepiece_model_pb2

    schema: Any = sentencepiece_model_pb2
    proto = schema.ModelProto.FromString(tokenizer.model.serialized_model_proto())
    check_form(proto)
    marks = [(p.piece, i) for i, p in enumerate(proto.pieces) if p.type in (UNKNOWN, CONTROL)]
    normalizers = [*unicode_steps(tokenizer, proto), *space_steps(proto.normalizer_spec)]
    decoders: list[Any] = [hf.decoders.Replace(SPACE, " ")]
    if proto.trainer_spec.model_type == UNIGRAM:
        broken = breaking(proto)
        normalizers += [hf.normalizers.Replace(c, f"{c} ") for c in broken]
        decoders.insert(0, hf.decoders.Replace(" ", ""))
        result = hf.Tokenizer(unigram(proto, broken))
    else:
        result = hf.Tokenizer(bpe(proto))
    result.normalizer = hf.normalizers.Sequence(normalizers)
    strip = [hf.decoders.Strip(" ", 1, 0)] if proto.normalizer_spec.add_dummy_prefix else []
    result.decoder = hf.decoders.Sequence([*decoders, hf.decoders.ByteFallback(), hf.decoders.Fuse(), *strip])
    result.add_special_tokens([piece for piece, _ in marks])
    result.encode_special_tokens = True  # a text that spells a mark does not get the mark
    ends = [result.id_to_token(i) for i in tokenizer.suffix]
    result.post_processor = hf.processors.TemplateProcessing(single=["$A", *ends], special_tokens=marks)
    pieces = [p.piece.replace(SPACE, " ") for p in proto.pieces]
    expect_equal(tokenizer, result, [*HARD, *pieces])
    result.enable_padding(pad_id=tokenizer.pad_id, pad_token=result.id_to_token(tokenizer.pad_id))
    return result


def check_form(proto: Any) -> None:
    """Raises ConfigError for what the `tokenizers` library has no form for."""
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    kind = trainer.ModelType.Name(trainer.model_type)
    types = {piece.type for piece in proto.pieces}
    refused = {
        f"model_type {kind}": trainer.model_type not in (UNIGRAM, BPE),
        "treat_whitespace_as_suffix": trainer.treat_whitespace_as_suffix,
        "escape_whitespaces = false": not normalizer.escape_whitespaces,
        "unused pieces": UNUSED in types,
        "user-defined symbols in a BPE model": trainer.model_type == BPE and USER_DEFINED in types,
    }
    if found := [option for option, there in refused.items() if there]:
        raise ConfigError(f"tokenizer: no tokenizer.json holds a SentencePiece model with {' or '.join(found)}")


def unicode_steps(tokenizer: SentencePiece, proto: Any) -> list[Any]:
    """Normalizers in front of white space: the model's own map of characters.

    The library applies it to each grapheme, and drops all after the first character that has a rule. Of the maps that
    SentencePiece comes with, Unicode's normal form does almost all of the work before, so that it has nothing to drop.
    """
    spec, n = proto.normalizer_spec, hf.normalizers
    if not spec.precompiled_charsmap:
        return []
    own = n.Precompiled(spec.precompiled_charsmap)
    name = spec.name.removeprefix("nmt_")
    if name not in ("nfkc", "nfkc_cf"):
        return [own]
    kept = [c for c in "～İ" if tokenizer.model.normalize(c).endswith(c)]  # though Unicode would change them
    pairs = list(zip(kept, PLACEHOLDERS, strict=False))
    usual: list[Any] = [n.NFKC(), *([n.Lowercase()] if name == "nfkc_cf" else [])]
    lines = [n.Replace(hf.Regex(r"[\r\n]"), " ")] if spec.name.startswith("nmt_") else []  # together one grapheme
    return [*lines, *(n.Replace(c, p) for c, p in pairs), *usual, *(n.Replace(p, c) for c, p in pairs), own]


def space_steps(spec: Any) -> list[Any]:
    """Normalizers of white space, in the order of SentencePiece: what stands in front of a text goes before the mark of
    its beginning comes, what ends it goes last, be it a space or the sign of one."""
    replace, pattern = hf.normalizers.Replace, hf.Regex
    tidy = spec.remove_extra_whitespaces
    return [
        *([replace(pattern(r"\A +"), ""), replace(pattern(" {2,}"), " ")] if tidy else []),
        *([hf.normalizers.Prepend(SPACE)] if spec.add_dummy_prefix else []),
        replace(" ", SPACE),
        *([replace(pattern(rf"{SPACE}+\z"), "")] if tidy else []),
    ]


def unigram(proto: Any, broken: Sequence[str]) -> hf.models.Unigram:
    """Pieces and scores. A user-defined symbol gets the score by which SentencePiece prefers it to all else.

    broken: characters that are written with a space behind them, see `breaking`.
    """
    highest = max(piece.score for piece in proto.pieces if piece.type == NORMAL)
    vocabulary = []
    for piece in proto.pieces:
        name, score = piece.piece, piece.score
        if piece.type == USER_DEFINED:
            score = len(name.encode()) * highest - 0.1
        if piece.type in (NORMAL, USER_DEFINED):
            for character in broken:
                name = name.replace(character, f"{character} ")
        vocabulary.append((name, score))
    unknown = next(i for i, piece in enumerate(proto.pieces) if piece.type == UNKNOWN)
    return hf.models.Unigram(vocabulary, unknown, proto.trainer_spec.byte_fallback)


def breaking(proto: Any) -> list[str]:
    """Characters that get a space behind them, in texts and in pieces that texts are made of, but not in marks and
    bytes: the library would find `</s>` in a text that spells it, but not in `< /s>`. No text has other spaces then.

    Raises ConfigError if that cannot be, since the bytes of a character outside the vocabulary would be others.
    """
    chosen: list[str] = []
    known = {piece.piece for piece in proto.pieces if piece.type in (NORMAL, USER_DEFINED)}
    for piece in proto.pieces:
        if piece.type not in (UNKNOWN, CONTROL, BYTE):
            continue
        usable = [c for c in piece.piece[:-1] if c in known or not proto.trainer_spec.byte_fallback]
        if not usable:
            raise ConfigError(f"tokenizer: no tokenizer.json tells a text {piece.piece!r} from the mark or byte")
        if not set(usable) & set(chosen):
            chosen.append(usable[0])
    return chosen


def bpe(proto: Any) -> hf.models.BPE:
    """Pieces, and the merges that lead to them, best score first."""
    normal = {piece.piece: piece.score for piece in proto.pieces if piece.type == NORMAL}
    merges = [
        (piece[:i], piece[i:])
        for piece in sorted(normal, key=lambda piece: -normal[piece])
        for i in range(1, len(piece))
        if piece[:i] in normal and piece[i:] in normal
    ]
    vocabulary = {piece.piece: i for i, piece in enumerate(proto.pieces)}
    trainer = proto.trainer_spec
    return hf.models.BPE(
        vocabulary, merges, unk_token=trainer.unk_piece, fuse_unk=True, byte_fallback=trainer.byte_fallback
    )


def expect_equal(ours: SentencePiece, theirs: hf.Tokenizer, texts: Collection[str]) -> None:
    """Raises ConfigError if a text gets other ids. Of a run of one character the same pieces may come in another order:
    their scores are equal, and SentencePiece rounds sums to float32."""
    texts = list(texts)
    found = [encoding.ids for encoding in theirs.encode_batch(texts, add_special_tokens=False)]
    for text, expected, ids in zip(texts, ours.model.encode(texts), found, strict=True):
        if sorted(ids) != sorted(expected):
            raise ConfigError(f"tokenizer: a tokenizer.json gives {text!r} the ids {ids}, SentencePiece {expected}")

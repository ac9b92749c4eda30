"""Tokenizers: text in, int32 ids of fixed length out."""

import gzip
import hashlib
import importlib.metadata
import importlib.util
import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Protocol, overload

import numpy as np
import tokenizers as hf
from jaxtyping import Int32

from bigcl import registry
from bigcl.data.cache import prepare
from bigcl.data.cleaning import Cleaning, clean_text
from bigcl.data.sources import BadRecord, Source, source_name
from bigcl.files import replacing
from bigcl.registry import ConfigError, Part

FILE = "tokenizer.json"


class Tokenizer(Protocol):
    """Text -> ids: the beginning mark, as much of the text as fits, the end mark (always kept), then `pad_id`."""

    vocab_size: int
    pad_id: int

    @overload
    def __call__(self, text: str, length: int) -> Int32[np.ndarray, " length"]: ...
    @overload
    def __call__(self, text: Sequence[str], length: int) -> Int32[np.ndarray, "n length"]: ...

    def save(self, path: pathlib.Path) -> None: ...


class TokenizersJSON:
    """A tokenizer file of the Hugging Face `tokenizers` library.

    The marks before and after the text are those that the file itself adds to a text.
    pad_id: None takes the file's own padding, or 0.
    clean: what is done to a text first (see `clean_text`); no part of the file.
    """

    def __init__(self, path: str, pad_id: int | None = None, clean: Cleaning | None = None):
        if not pathlib.Path(path).is_file():
            raise FileNotFoundError(
                f"tokenizer.path: no file {path}; it is the tokenizer.json of a run or of a published model"
            )
        self.clean = clean
        try:
            self.model = hf.Tokenizer.from_file(path)
            padding = self.model.padding or {}
            self.pad_id = padding.get("pad_id", 0) if pad_id is None else pad_id
            self.model.no_padding()
            self.model.no_truncation()
            self.model.encode_special_tokens = True  # a text that spells a mark does not get the mark
            marked = self.model.encode("a")
            self.vocab_size = max(self.model.get_vocab(with_added_tokens=True).values()) + 1
        except BaseException as error:  # of damaged files the library raises plain ones, and panics that are none
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            raise ConfigError(f"tokenizer.path: {path} is no tokenizer.json that can be used: {error}") from error
        special = np.array(marked.special_tokens_mask, bool)
        before, after = (0, 0) if special.all() else (int(np.argmin(special)), int(np.argmin(special[::-1])))
        self.prefix, self.suffix = marked.ids[:before], marked.ids[len(marked.ids) - after :]

    def __call__(self, text: str | Sequence[str], length: int) -> Int32[np.ndarray, "*n length"]:
        if not isinstance(text, str):
            return np.stack([self(t, length) for t in text]) if text else np.zeros((0, length), np.int32)
        if self.clean:
            text = clean_text(text, self.clean)
        ids = self.model.encode(text, add_special_tokens=False).ids
        return marked_ids(ids, length, self.prefix, self.suffix, self.pad_id)

    def decode(self, ids: Int32[np.ndarray, " length"]) -> str:
        """The text of ids, without marks and padding."""
        return self.model.decode([i for i in ids.tolist() if i != self.pad_id], skip_special_tokens=True)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.model.encode_special_tokens = True  # the library's own state leaves it out

    def save(self, path: pathlib.Path) -> None:
        """Writes the tokenizer as a file that this class reads, marks and padding included."""
        copy = hf.Tokenizer.from_str(self.model.to_str())
        copy.enable_padding(pad_id=self.pad_id, pad_token=copy.id_to_token(self.pad_id))
        with replacing(path) as partial:
            copy.save(str(partial))


def marked_ids(
    ids: list[int], length: int, prefix: list[int], suffix: list[int], pad_id: int
) -> Int32[np.ndarray, " length"]:
    """As many ids as fit between the marks, then padding."""
    room = length - len(prefix) - len(suffix)
    if room < 0:
        raise ValueError(f"tokens: a length of {length} has no room for the {len(prefix) + len(suffix)} marks")
    ids = [*prefix, *ids[:room], *suffix]
    result = np.full(length, pad_id, np.int32)
    result[: len(ids)] = ids
    return result


class BPE(TokenizersJSON):
    """Byte-level BPE (Sennrich et al. 2016; Radford et al. 2019), trained once on the texts of a source and cached.

    Texts are NFKC-normalised and lower-cased; every text can be encoded, since all 256 bytes are tokens. Ids: 0 pad, 1
    beginning, the largest end.

    key: where an example has its text, or a list or dict of texts.
    vocab_size: upper bound; little text may not have so many different pairs to merge.
    """

    def __init__(self, source: Annotated[Part, "source"], key: str = "text", vocab_size: int = 4096):
        opened = registry.build("source", source)
        recipe = {
            "source": {"part": source, "name": source_name(opened), "size": len(opened)},
            "key": key,
            "vocab_size": vocab_size,
            "tokenizers": importlib.metadata.version("tokenizers"),
            "layout": 1,
        }

        def build(folder: pathlib.Path) -> None:
            texts = (text for i in range(len(opened)) for text in readable_texts(opened, i, key))
            if (first := next(texts, None)) is None:
                raise ValueError(f"tokenizer: no example of {source_name(opened)} has a text at {key!r}")
            train_bpe(itertools.chain([first], texts), vocab_size).save(str(folder / FILE))

        super().__init__(str(prepare("bpe", recipe, build) / FILE))


def readable_texts(source: Source, index: int, key: str) -> list[str]:
    """The texts of an example at a key; none of one that is a bad record or has no such key."""
    try:
        return texts_of(source[index].get(key))
    except (BadRecord, UnicodeDecodeError):
        return []


def train_bpe(texts: Iterator[str], vocab_size: int) -> hf.Tokenizer:
    """Trains byte-level BPE; the order of the texts does not matter, only their counts."""
    model = hf.Tokenizer(hf.models.BPE())
    model.normalizer = hf.normalizers.Sequence([hf.normalizers.NFKC(), hf.normalizers.Lowercase()])
    # With a space before it, a word is the same token at the start of a text as later.
    model.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=True)
    model.decoder = hf.decoders.ByteLevel()
    trainer = hf.trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        special_tokens=["<pad>", "<bos>"],
        initial_alphabet=hf.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator(texts, trainer)
    model.add_special_tokens(["<eos>"])
    marks = [(token, model.token_to_id(token)) for token in ("<bos>", "<eos>")]
    model.post_processor = hf.processors.TemplateProcessing(single="<bos> $A <eos>", special_tokens=marks)
    model.enable_padding(pad_id=0, pad_token="<pad>")
    return model


class CLIP(TokenizersJSON):
    """The byte-level BPE of CLIP (Radford et al. 2021): 49,408 ids, of which the last two are the marks; 0 pads.

    Texts are cleaned as "lower" says. A text that spells a mark does not get it; else the ids are those of open_clip.

    path: its vocabulary, `bpe_simple_vocab_16e6.txt.gz`, unpacked or not; None takes that of an installed open_clip.
    """

    def __init__(self, path: str | None = None):
        vocabulary = pathlib.Path(path) if path else installed_vocabulary()
        content = vocabulary.read_bytes()
        recipe = {
            "vocabulary": hashlib.sha256(content).hexdigest(),
            "tokenizers": importlib.metadata.version("tokenizers"),
            "layout": 1,
        }

        def build(folder: pathlib.Path) -> None:
            text = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
            clip_bpe(text.decode()).save(str(folder / FILE))

        super().__init__(str(prepare("clip", recipe, build) / FILE), clean="lower")


def installed_vocabulary() -> pathlib.Path:
    """CLIP's vocabulary as open_clip brings it along; nothing is imported."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None or spec.origin is None:
        raise ValueError("path: without open_clip (pip install open_clip_torch) name bpe_simple_vocab_16e6.txt.gz here")
    return pathlib.Path(spec.origin).with_name("bpe_simple_vocab_16e6.txt.gz")


_CLIP_MERGES = 49_152 - 256 - 2  # of the 262,145 lines of the file
_CLIP_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


def clip_bpe(vocabulary: str) -> hf.Tokenizer:
    """The tokenizer of a list of merges in order of their rank, one a line, below one line of heading.

    Ids: 256 bytes, 256 bytes that end a word, the merges, the two marks.
    """
    lines = [line.split() for line in vocabulary.split("\n")[1 : 1 + _CLIP_MERGES]]
    if not all(len(line) == 2 for line in lines):
        raise ValueError("path: this is no list of merges like bpe_simple_vocab_16e6.txt.gz")
    merges = [(first, second) for first, second in lines]
    # Bytes in the order of the original's table: those that print by themselves, then the stand-ins of the others.
    letters = sorted(hf.pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *[letter + "</w>" for letter in letters], *[first + second for first, second in merges]]
    marks = ["<start_of_text>", "<end_of_text>"]
    model = hf.Tokenizer(
        hf.models.BPE({t: i for i, t in enumerate([*tokens, *marks])}, merges, end_of_word_suffix="</w>")
    )
    model.normalizer = hf.normalizers.Lowercase()
    model.pre_tokenizer = hf.pre_tokenizers.Sequence(
        [
            hf.pre_tokenizers.Split(hf.Regex(_CLIP_WORDS), behavior="removed", invert=True),
            hf.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    model.decoder = hf.decoders.Sequence([hf.decoders.ByteLevel(), hf.decoders.Replace("</w>", " ")])
    model.add_special_tokens(marks)
    template = [(mark, model.token_to_id(mark)) for mark in marks]
    model.post_processor = hf.processors.TemplateProcessing(single=f"{marks[0]} $A {marks[1]}", special_tokens=template)
    model.enable_padding(pad_id=0, pad_token=letters[0])
    return model


class SentencePiece:
    """A SentencePiece model (Kudo and Richardson 2018), `pip install "bigcl[sentencepiece]"`, as SigLIP and T5 use.

    path: the `.model` file. No mark begins a text; the model's end mark ends it.
    pad_id: None takes the model's own padding, or 0.
    clean: what is done to a text first (see `clean_text`); "canonicalize" for SigLIP.
    """

    def __init__(self, path: str, pad_id: int | None = None, clean: Cleaning | None = None):
        try:
            import sentencepiece
        except ImportError as error:
            raise ImportError('sentencepiece is missing: pip install "bigcl[sentencepiece]"') from error
        if not pathlib.Path(path).is_file():
            raise FileNotFoundError(f"tokenizer.path: no file {path}; it is the .model file of a SentencePiece model")
        self.model = sentencepiece.SentencePieceProcessor(model_file=path)
        self.pad_id = max(0, self.model.pad_id()) if pad_id is None else pad_id
        self.suffix = [self.model.eos_id()] if self.model.eos_id() >= 0 else []
        self.vocab_size, self.clean = self.model.vocab_size(), clean

    def __call__(self, text: str | Sequence[str], length: int) -> Int32[np.ndarray, "*n length"]:
        if not isinstance(text, str):
            return np.stack([self(t, length) for t in text]) if text else np.zeros((0, length), np.int32)
        if self.clean:
            text = clean_text(text, self.clean)
        return marked_ids(self.model.encode(text), length, [], self.suffix, self.pad_id)

    def decode(self, ids: Int32[np.ndarray, " length"]) -> str:
        """The text of ids, without marks and padding."""
        return self.model.decode([i for i in ids.tolist() if i != self.pad_id and i not in self.suffix])

    def save(self, path: pathlib.Path) -> None:
        """Writes the model beside `path`, with the ending `.model`."""
        with replacing(path.with_suffix(".model")) as partial:
            partial.write_bytes(self.model.serialized_model_proto())


def saved_tokenizer(workdir: pathlib.Path, part: Part | None) -> Tokenizer | None:
    """The tokenizer that a run left in its folder. part: that of its config, for what the file does not say."""
    if part is None:
        return None
    path = workdir / FILE
    clean: Cleaning | None = "lower" if part["kind"] == "clip" else part.get("clean")
    if path.exists():
        return TokenizersJSON(str(path), clean=clean)
    if path.with_suffix(".model").exists():
        return SentencePiece(str(path.with_suffix(".model")), part.get("pad_id"), clean)
    return registry.build("tokenizer", part)


def as_text(value: Any) -> str:
    """A text as str, also where a file format keeps bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)


def texts_of(value: str | bytes | Sequence[Any] | Mapping[str, Any] | None) -> list[str]:
    """All texts of a value: itself, or those of a list or dict; None is no text."""
    if value is None or isinstance(value, str | bytes):
        return [] if value is None else [as_text(value)]
    return [as_text(v) for v in (value.values() if isinstance(value, Mapping) else value) if v is not None]

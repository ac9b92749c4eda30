"""Tokenizers: text in, int32 ids of fixed length out."""

import importlib.metadata
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Protocol, overload

import numpy as np
import tokenizers as hf
from jaxtyping import Int32

from bigcl import registry
from bigcl.data.cache import prepare
from bigcl.data.sources import source_name
from bigcl.files import replacing
from bigcl.registry import Part

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
    """

    def __init__(self, path: str, pad_id: int | None = None):
        if not pathlib.Path(path).is_file():
            raise FileNotFoundError(
                f"tokenizer.path: no file {path}; it is the tokenizer.json of a run or of a published model"
            )
        self.model = hf.Tokenizer.from_file(path)
        padding = self.model.padding or {}
        self.pad_id = padding.get("pad_id", 0) if pad_id is None else pad_id
        self.model.no_padding()
        self.model.no_truncation()
        self.model.encode_special_tokens = True  # a text that spells a mark does not get the mark
        marked = self.model.encode("a")
        special = np.array(marked.special_tokens_mask, bool)
        before, after = (0, 0) if special.all() else (int(np.argmin(special)), int(np.argmin(special[::-1])))
        self.prefix, self.suffix = marked.ids[:before], marked.ids[len(marked.ids) - after :]
        self.vocab_size = max(self.model.get_vocab(with_added_tokens=True).values()) + 1

    def __call__(self, text: str | Sequence[str], length: int) -> Int32[np.ndarray, "*n length"]:
        if not isinstance(text, str):
            return np.stack([self(t, length) for t in text]) if text else np.zeros((0, length), np.int32)
        room = length - len(self.prefix) - len(self.suffix)
        if room < 0:
            raise ValueError(
                f"tokens: a length of {length} has no room for the {len(self.prefix) + len(self.suffix)} marks"
            )
        ids = [*self.prefix, *self.model.encode(text, add_special_tokens=False).ids[:room], *self.suffix]
        result = np.full(length, self.pad_id, np.int32)
        result[: len(ids)] = ids
        return result

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
            texts = (text for i in range(len(opened)) for text in texts_of(opened[i][key]))
            train_bpe(texts, vocab_size).save(str(folder / FILE))

        super().__init__(str(prepare("bpe", recipe, build) / FILE))


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


def as_text(value: Any) -> str:
    """A text as str, also where a file format keeps bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)


def texts_of(value: str | bytes | Sequence[Any] | Mapping[str, Any]) -> list[str]:
    """All texts of a value: itself, or those of a list or dict."""
    if isinstance(value, str | bytes):
        return [as_text(value)]
    return [as_text(v) for v in (value.values() if isinstance(value, Mapping) else value)]

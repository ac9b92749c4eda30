"""What published models were made to see: how pictures and texts become their inputs, by family. It holds where the
files say nothing of it, as bare weights do."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from bigcl import registry
from bigcl.data.cleaning import Cleaning
from bigcl.data.tokenizers import TokenizersJSON
from bigcl.interop.model import Method, Preprocessing

OPENAI = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
"""Mean and standard deviation of each channel, of pixels in [0, 1]."""


class Preset(NamedTuple):
    """The record of a family.

    mode, method, colours: of pictures, as in `Preprocessing`; colours are mean and std.
    tokenizer: what it is called.  vocab: sizes of its vocabularies.  clean: what is done to a text first.
    length: of a text, in tokens.
    activation: of both towers, where a file of weights does not say; None where it cannot be read without its config.
    """

    mode: Literal["shortest", "squash", "naflex"]
    method: Method
    colours: tuple[Sequence[float], Sequence[float]]
    tokenizer: str | None = None
    vocab: tuple[int, ...] = ()
    clean: Cleaning | None = None
    length: int | None = None
    activation: str | None = None

    def preprocessing(self, size: int) -> Preprocessing:
        """For a tower of this size in pixels. (Not for NaFlex, which counts patches.)"""
        assert self.mode != "naflex"
        mean, std = self.colours
        return Preprocessing(size, self.mode, self.method, tuple(mean), tuple(std))

    def said(self) -> str:
        """One line for people."""
        mean, std = (", ".join(f"{x:.4g}" for x in colours) for colours in self.colours)
        return f"{self.mode} by {self.method}, mean {mean}, std {std}"


CLIP_TEXTS: dict[str, Any] = {"tokenizer": "clip", "vocab": (49_408,), "clean": "lower", "length": 77}
MT5_TEXTS: dict[str, Any] = {
    "tokenizer": "mT5's SentencePiece",
    "vocab": (250_100, 250_112),
    "clean": "canonicalize",
    "length": 77,
}

PRESETS: dict[str, Preset] = {
    "openai": Preset("shortest", "bicubic", OPENAI, **CLIP_TEXTS, activation="quick_gelu"),
    "open_clip": Preset("shortest", "bicubic", OPENAI, **CLIP_TEXTS, activation="gelu"),
    "open_clip_quickgelu": Preset("shortest", "bicubic", OPENAI, **CLIP_TEXTS, activation="quick_gelu"),
    "laion2b_l14": Preset("shortest", "bicubic", HALF, **CLIP_TEXTS, activation="gelu"),
    "dfn5b": Preset("squash", "bicubic", OPENAI, **CLIP_TEXTS, activation="quick_gelu"),
    "metaclip2": Preset("shortest", "bicubic", OPENAI, **MT5_TEXTS),
    "metaclip2_378": Preset("squash", "bicubic", OPENAI, **MT5_TEXTS),
    "coca": Preset("shortest", "bicubic", OPENAI, **{**CLIP_TEXTS, "length": 76}, activation="gelu"),
    "siglip": Preset(
        "squash", "bicubic", HALF, "SentencePiece of C4, of mC4 in i18n", (32_000, 250_000), "canonicalize", 64
    ),
    "siglip2": Preset("squash", "bicubic", HALF, "Gemma's", (256_000,), "canonicalize", 64),
    "siglip2_naflex": Preset("naflex", "bilinear", HALF, "Gemma's", (256_000,), "lower", 64),
    "dinov2": Preset("shortest", "bicubic", IMAGENET),
}
"""CLIP: Radford et al. 2021; open_clip's own, of which ViT-L/14 on LAION-2B saw other colours; DFN-5B ViT-H: Fang et
al. 2024; MetaCLIP 2 worldwide: Chuang et al. 2025; CoCa: Yu et al. 2022, as open_clip trained it; SigLIP: Zhai et al.
2023; SigLIP 2: Tschannen et al. 2025; DINOv2: Oquab et al. 2024. Sentence encoders (BERT, MiniLM) have no pictures, and
clean texts within their tokenizer.json."""

BARE = tuple(name for name, preset in PRESETS.items() if preset.activation)
"""Families whose weights can be read without a config."""


def tokenizer_of(preset: Preset, vocab: int) -> TokenizersJSON | None:
    """The tokenizer of a family, where one can be had without a download; else None, and it is said which it is."""
    if vocab not in preset.vocab:
        return None  # a model of one's own, in the layout of a published one
    if preset.tokenizer == "clip":
        try:
            return registry.build("tokenizer", {"kind": "clip"})
        except registry.ConfigError as error:
            print(f"no tokenizer.json: the published one is CLIP's: {error}")
            return None
    print(
        f"no tokenizer.json: the published one is {preset.tokenizer}, {preset.length} tokens; set `tokenizer` in the "
        f"config of a run, with clean={preset.clean!r}"
    )
    return None

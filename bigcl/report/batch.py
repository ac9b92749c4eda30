"""A page that shows a batch as the model will see it."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from markupsafe import Markup

from bigcl import __version__
from bigcl.data.transforms.naflex import unpatchify
from bigcl.report.figures import Line, line_chart
from bigcl.report.numbers import Big
from bigcl.report.page import asset, template
from bigcl.report.run import percent, percent_tick, short
from bigcl.report.svg import data_uri

PICTURE = 256  # pixels of the longer side, as stored in the page
_LONGEST = 300  # characters of a text of the source that are shown
_CHANNELS = {1: ("ink",), 3: ("c6", "c2", "c0")}


@dataclasses.dataclass(frozen=True)
class Sample:
    """A batch and where it comes from.

    name: of the config.  step, source, size: which batch of which source, with how many examples.
    batch: arrays [rows, ...], as the loader gives them.
    originals: of the first rows, the example as the source gives it.
    pad_id, decode: of the tokenizer; None where there is none, or where it cannot turn ids into text.
    data: the config's section.
    """

    name: str
    step: int
    source: str
    size: int
    batch: Mapping[str, np.ndarray]
    originals: Sequence[Mapping[str, Any]]
    pad_id: int | None
    decode: Callable[[np.ndarray], str] | None
    data: Mapping[str, Any]
    attribution: str | None = None

    def pictures(self) -> list[str]:
        """Keys of pictures: [rows, H, W, 1 or 3]."""
        return [k for k, v in self.batch.items() if v.ndim == 4 and v.shape[-1] in _CHANNELS and v.size]

    def tokens(self) -> list[str]:
        """Keys of token ids: integers [rows, length], where there is a tokenizer."""
        shapes = [f"{key}_shape" for key in self.patches()]
        ids = [k for k, v in self.batch.items() if v.ndim == 2 and v.dtype.kind in "iu" and k not in shapes]
        return ids if self.pad_id is not None else []

    def patches(self) -> list[str]:
        """Keys of pictures as patches of their own shape, as `naflex` makes them: [rows, tokens, patch * patch * 3]."""
        return [k for k, v in self.batch.items() if v.ndim == 3 and f"{k}_shape" in self.batch]

    def videos(self) -> list[str]:
        """Keys of videos: bytes [rows, frames, H, W, 3]."""
        return [k for k, v in self.batch.items() if v.ndim == 5 and v.shape[-1] == 3 and v.dtype == np.uint8]

    def lengths(self, key: str) -> np.ndarray:
        """Tokens of each row, padding not counted."""
        return (self.batch[key] != self.pad_id).sum(axis=1)


@dataclasses.dataclass(frozen=True)
class Card:
    """One row: its pictures, its token ids as text with their number, its numbers, and the texts of the source."""

    index: int
    pictures: list[tuple[str, str]]
    tokens: list[tuple[str, str, str]]
    numbers: list[tuple[str, str]]
    texts: list[tuple[str, str]]


def render_batch(sample: Sample) -> str:
    """The page as HTML."""
    dropped = sorted({key for example in sample.originals for key in example} - set(sample.batch))
    return template("batch.html.j2").render(
        sample=sample,
        style=asset("style.css"),
        rows=len(next(iter(sample.batch.values()))),
        headline=headline(sample),
        cards=[card(sample, row) for row in range(len(sample.originals))],
        arrays=[array_row(key, value) for key, value in sample.batch.items()],
        charts=[
            *(pixel_chart(sample, key) for key in sample.pictures()),
            *(token_chart(sample, key) for key in sample.tokens()),
        ],
        dropped=dropped,
        config=json.dumps(sample.data, indent=2, ensure_ascii=False),
        version=__version__,
    )


def headline(sample: Sample) -> list[Big]:
    """Rows, pictures, tokens."""
    index = sample.batch["index"]
    repeated = len(index) - len(np.unique(index))
    numbers = [Big(f"{len(index):,}", "examples in the batch", f"{repeated} repeated" if repeated else "all different")]
    for key in sample.pictures():
        height, width, channels = sample.batch[key].shape[1:]
        numbers.append(Big(f"{height} × {width}", key, f"{channels} channels, {sample.batch[key].dtype}", "first"))
    for key in sample.tokens():
        lengths, longest = sample.lengths(key), sample.batch[key].shape[1]
        full = percent(float((lengths == longest).mean()))
        median = short(float(np.median(lengths)))
        numbers.append(Big(median, f"tokens of {key}, median", f"{full} fill all {longest}", "second"))
    return numbers


def card(sample: Sample, row: int) -> Card:
    """The card of a row of the batch."""
    spell = sample.decode or (lambda ids: " ".join(map(str, ids.tolist())))
    scalars = [k for k, v in sample.batch.items() if v.ndim == 1 and k != "index"]
    return Card(
        int(sample.batch["index"][row]),
        [(key, data_uri(picture, PICTURE)) for key, picture in pictures(sample, row)],
        [(key, spell(sample.batch[key][row]), str(sample.lengths(key)[row])) for key in sample.tokens()],
        [(key, short(float(sample.batch[key][row]))) for key in scalars],
        [(key, text) for key, value in sample.originals[row].items() if (text := readable(value))],
    )


def pictures(sample: Sample, row: int) -> list[tuple[str, UInt8[np.ndarray, "h w 3"]]]:
    """What there is to see in a row; the frames of a video side by side."""
    batch = sample.batch
    return [
        *((key, visible(batch[key])[row]) for key in sample.pictures()),
        *((key, unpatchify(batch[key][row], *batch[f"{key}_shape"][row].tolist())) for key in sample.patches()),
        *((key, np.concatenate(batch[key][row], axis=1)) for key in sample.videos()),
    ]


def visible(pictures: np.ndarray) -> UInt8[np.ndarray, "n h w 3"]:
    """Pictures of any type as bytes: others than bytes are spread over the range of the batch."""
    if pictures.dtype != np.uint8:
        low, high = float(pictures.min()), float(pictures.max())
        pictures = ((pictures - low) / max(high - low, 1e-9) * 255).astype(np.uint8)
    return np.broadcast_to(pictures, (*pictures.shape[:3], 3))


def readable(value: Any) -> str:
    """Texts of a value, or nothing."""
    if isinstance(value, Mapping):
        return " · ".join(text for part in value.values() if (text := readable(part)))[:_LONGEST]
    if isinstance(value, list | tuple):
        return " · ".join(text for part in value if (text := readable(part)))[:_LONGEST]
    if isinstance(value, bytes):
        value = value.decode() if is_text(value) else ""
    return value[:_LONGEST] if isinstance(value, str) else ""


def is_text(data: bytes) -> bool:
    """Whether bytes are a text, not a picture or the like."""
    try:
        return data.decode().isprintable()
    except UnicodeDecodeError:
        return False


def array_row(key: str, array: np.ndarray) -> tuple[str, ...]:
    """Name, type, shape of a row, and the range of an array."""
    shape = " × ".join(map(str, array.shape[1:])) or "number"
    if not array.size:
        return key, str(array.dtype), shape, "", "", "", ""
    values = array.astype(np.float64)
    odd = f"{(~np.isfinite(values)).sum():,}" if not np.isfinite(values).all() else ""
    low, high, mean = (short(float(f(values))) for f in (np.nanmin, np.nanmax, np.nanmean))
    return key, str(array.dtype), shape, low, high, mean, odd


def pixel_chart(sample: Sample, key: str) -> tuple[str, Markup]:
    """How the values of each channel are spread."""
    array = sample.batch[key]
    low, high = (0, 256) if array.dtype == np.uint8 else (float(array.min()), float(array.max()) + 1e-9)
    lines = []
    for channel, tone in enumerate(_CHANNELS[array.shape[-1]]):
        counts, edges = np.histogram(array[..., channel], bins=64, range=(low, high))
        lines.append(Line((edges[:-1] + edges[1:]) / 2, counts / counts.sum(), tone=tone, fill=True))
    return f"{key}: values", line_chart(lines, label=f"Values of {key}", form=percent_tick, zero=True, axis="value")


def token_chart(sample: Sample, key: str) -> tuple[str, Markup]:
    """How many tokens the rows have."""
    counts = np.bincount(sample.lengths(key), minlength=sample.batch[key].shape[1] + 1)
    line = Line(np.arange(len(counts), dtype=float), counts / counts.sum(), tone="second", fill=True)
    return f"{key}: tokens", line_chart([line], label=f"Tokens of {key}", form=percent_tick, zero=True, axis="tokens")

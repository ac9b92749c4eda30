"""Transforms of sound, decoded by soundfile (`pip install "bigcl[audio]"`). A sound is float32 [samples] in [-1, 1]."""

import functools
import io
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy.signal
from jaxtyping import Float, Float32

from bigcl.data.sources import BadRecord, Example
from bigcl.data.transforms import field
from bigcl.data.transforms.text import read_text
from bigcl.registry import ConfigError

Sound = Float32[np.ndarray, " samples"]
_LIMIT = 2**28
"""Samples, over all channels, that a file may hold: 1 GiB of them decoded, 4.6 hours of one channel at 16 kHz."""


class DecodeAudio:
    """Encoded bytes of WAV, FLAC, Ogg, MP3 and what else libsndfile reads -> float32 [samples], one channel.

    Channels are averaged. Raises BadRecord for what is no sound, is empty, or has more than 2**28 samples.

    rate: samples a second of the result.
    """

    def __init__(self, rate: int, key: str = "audio"):
        import_soundfile()
        self.rate, self.key = rate, key

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        soundfile = import_soundfile()
        try:
            with soundfile.SoundFile(io.BytesIO(field(example, self.key))) as file:
                if not 0 < file.frames * file.channels <= _LIMIT:
                    raise BadRecord(reason=f"a sound of {file.frames} samples in {file.channels} channels")
                wave, rate = file.read(dtype="float32", always_2d=True).mean(axis=1), file.samplerate
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise BadRecord(reason=f"no sound can be made of it: {error}") from error
        return {**example, self.key: resample(wave, rate, self.rate)}


def import_soundfile() -> ModuleType:
    """The library, or what to install."""
    try:
        import soundfile
    except ImportError as error:
        raise ImportError('decode_audio needs soundfile: pip install "bigcl[audio]"') from error
    return soundfile


def resample(wave: Sound, rate: int, new_rate: int) -> Sound:
    """Changes the sampling rate by a polyphase filter; frequencies that the lower rate cannot hold are removed."""
    if rate == new_rate:
        return wave
    common = math.gcd(rate, new_rate)
    return scipy.signal.resample_poly(wave, new_rate // common, rate // common).astype(np.float32)


class CropAudio:
    """`samples` samples of a sound: from a random place, or the first; zeros after the end of one that is shorter."""

    def __init__(self, samples: int, random: bool = True, key: str = "audio"):
        self.samples, self.random, self.key = samples, random, key

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        wave = example[self.key]
        start = int(rng.integers(max(0, len(wave) - self.samples) + 1)) if self.random else 0
        part = wave[start : start + self.samples]
        return {**example, self.key: np.pad(part, (0, self.samples - len(part)))}


class ComposeAudio:
    """Two sounds and their names as a clip in order and the same reversed, with texts that say it (TeminAL, Sinha et
    al. 2024): "x before y" or "y after x" of a clip with x in front, each as often.

    first, second: keys of the sounds.  first_name, second_name: of what they are called.
    overlay: how often both sound at once, "x while y". Such a clip has no reverse; it stands for its own, and
        `reversible`, which the loss `temporal_nce` takes, is False.
    peak: the largest magnitude becomes 1.

    Gives `audio`, `text`, `audio_reversed`, `text_reversed`, `reversible`.
    """

    def __init__(
        self,
        first: str = "first",
        second: str = "second",
        first_name: str = "first_name",
        second_name: str = "second_name",
        overlay: float = 0.0,
        peak: bool = False,
    ):
        self.sounds, self.names, self.overlay, self.peak = (first, second), (first_name, second_name), overlay, peak

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        x, y = (example[key] for key in self.sounds)
        a, b = (read_text(example, key) for key in self.names)
        if rng.random() < self.overlay:
            clip = compose_clip(x, y, "overlay", self.peak)
            made = [(clip, f"{a} while {b}"), (clip, f"{b} while {a}")]
            reversible = False
        else:
            before, reversible = rng.random() < 0.5, True
            made = [
                (compose_clip(*sounds, "before", self.peak), f"{p} before {q}" if before else f"{q} after {p}")
                for sounds, p, q in (((x, y), a, b), ((y, x), b, a))
            ]
        (audio, text), (audio_reversed, text_reversed) = made
        found = {"audio": audio, "text": text, "audio_reversed": audio_reversed, "text_reversed": text_reversed}
        return {**example, **found, "reversible": reversible}


def compose_clip(
    x: Float[np.ndarray, " samples"],
    y: Float[np.ndarray, " others"],
    mode: Literal["before", "overlay"] = "before",
    peak: bool = False,
) -> Float[np.ndarray, " clip"]:
    """Two sounds as one: "before", x and then y; "overlay", the mean of both, the shorter one filled up with zeros.
    peak: the largest magnitude becomes 1; silence stays silent."""
    if mode == "before":
        clip = np.concatenate([x, y])
    else:
        length = max(len(x), len(y))
        clip = np.mean([np.pad(z, (0, length - len(z))) for z in (x, y)], axis=0)
    top = np.abs(clip).max(initial=0)
    return clip / top if peak and top > 0 else clip


class Mel(NamedTuple):
    """How a spectrogram is made.

    rate: samples a second. window, hop: length and distance of the frames, in samples. mels: number of bands.
    low, high: their limits in Hz. scale: "slaney" (Slaney 1998), where bands have equal area, or "htk", where they have
    equal height. log: "whisper", log10 of at least 1e-10 and at most 8 below the maximum, plus 4, over 4; or "db".
    """

    rate: int = 16_000
    window: int = 400
    hop: int = 160
    mels: int = 80
    low: float = 0.0
    high: float = 8_000.0
    scale: Literal["slaney", "htk"] = "slaney"
    log: Literal["whisper", "db"] = "whisper"


WHISPER = Mel()
"""Radford et al. 2022, 2.2; 128 bands from large-v3 on."""
CLAP = Mel(rate=48_000, window=1024, hop=480, mels=64, high=14_000.0, scale="htk", log="db")
"""Wu et al. 2022, "Large-scale contrastive language-audio pretraining", for sounds of up to 10 s."""
PRESETS = {"whisper": WHISPER, "clap": CLAP}


class LogMel:
    """float32 [samples] -> log-mel spectrogram, float32 [frames, mels].

    preset: "whisper" (16 kHz, 80 bands) or "clap" (48 kHz, 64 bands).
    mels: another number of bands.
    """

    def __init__(
        self,
        preset: Literal["whisper", "clap"] = "whisper",
        mels: int | None = None,
        key: str = "audio",
    ):
        self.mel, self.key = PRESETS[preset], key
        if mels is not None:
            self.mel = self.mel._replace(mels=mels)

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        return {**example, self.key: log_mel(example[self.key], self.mel, np)}


class DeviceLogMel(LogMel):
    """The same of a whole batch within the step, float32 [b, samples] -> [b, frames, mels]; in evaluations too, so that
    the transforms of neither make spectrograms. See `bigcl.data.transforms.device`."""

    gives: tuple[str, ...] = ()

    def __call__(self, batch: dict[str, Any], rng: Any) -> dict[str, Any]:
        if self.key not in batch:
            return batch
        if (wave := batch[self.key]).ndim != 2:
            raise ConfigError(
                f"data.device: log_mel makes spectrograms of sounds, [b, samples], and {self.key!r} is "
                f"{list(wave.shape)}; leave log_mel out of the transforms"
            )
        return {**batch, self.key: log_mel(wave, self.mel)}


def log_mel(wave: Float[Any, "*b samples"], mel: Mel = WHISPER, xp: Any = None) -> Float[Any, "*b frames mels"]:
    """Log-mel spectrogram: power of the Hann-windowed short-time Fourier transform, in mel bands, as logarithm.

    Frames are centred: the k-th is about sample k * hop, over the sound mirrored at its ends. There are samples // hop
    of them, and one more for "db".

    xp: the array library, `jax.numpy` by default.
    """
    if xp is None:
        import jax.numpy as xp
    half = mel.window // 2
    padded = xp.pad(wave, [(0, 0)] * (wave.ndim - 1) + [(half, half)], mode="reflect")
    count = wave.shape[-1] // mel.hop + (mel.log == "db")
    places = np.arange(count)[:, None] * mel.hop + np.arange(mel.window)
    hann = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(mel.window) / mel.window)).astype(np.float32)
    frames = padded[..., places] * xp.asarray(hann).reshape((1,) * wave.ndim + (-1,))
    power = xp.abs(xp.fft.rfft(frames)) ** 2
    log = xp.log10(xp.maximum(power @ xp.asarray(mel_filters(mel)), 1e-10))
    if mel.log == "db":
        return 10 * log
    return (xp.maximum(log, log.max(axis=(-2, -1), keepdims=True) - 8) + 4) / 4


@functools.cache
def mel_filters(mel: Mel) -> Float32[np.ndarray, "frequencies mels"]:
    """Triangular bands whose corners lie at equal distances on the mel scale, each beginning where the one before it
    peaks."""
    to_mel, to_hertz = _SCALES[mel.scale]
    corners = to_hertz(np.linspace(to_mel(np.float64(mel.low)), to_mel(np.float64(mel.high)), mel.mels + 2))
    frequencies = np.arange(mel.window // 2 + 1)[:, None] * mel.rate / mel.window
    rising = (frequencies - corners[:-2]) / np.diff(corners)[:-1]
    falling = (corners[2:] - frequencies) / np.diff(corners)[1:]
    bands = np.maximum(0, np.minimum(rising, falling))
    if mel.scale == "slaney":
        bands *= 2 / (corners[2:] - corners[:-2])
    return bands.astype(np.float32)


_LOG_STEP = math.log(6.4) / 27
_SCALES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {  # hertz -> mel, mel -> hertz
    "htk": (lambda f: 2595 * np.log10(1 + f / 700), lambda m: 700 * (10 ** (m / 2595) - 1)),
    "slaney": (  # linear up to 1 kHz, then logarithmic
        lambda f: np.where(f < 1000, 3 * f / 200, 15 + np.log(np.maximum(f, 1000) / 1000) / _LOG_STEP),
        lambda m: np.where(m < 15, 200 * m / 3, 1000 * np.exp(_LOG_STEP * (np.maximum(m, 15) - 15))),
    ),
}

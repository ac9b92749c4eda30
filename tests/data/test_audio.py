"""Sound: decoded from files written on the spot, resampled, and its spectrogram against SciPy."""

import functools
import io
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from bigcl import registry
from bigcl.data.sources import BadRecord
from bigcl.data.transforms.audio import CLAP, WHISPER, CropAudio, DecodeAudio, LogMel, log_mel, mel_filters, resample

RNG = np.random.default_rng(0)


def sine(frequency, rate, seconds=0.5):
    return np.sin(2 * np.pi * frequency * np.arange(int(rate * seconds)) / rate).astype(np.float32)


class TestDecode:
    @pytest.fixture
    def soundfile(self):
        return pytest.importorskip("soundfile")

    def encode(self, soundfile, wave, rate, format="WAV"):
        file = io.BytesIO()
        soundfile.write(file, wave, rate, format=format)
        return file.getvalue()

    @pytest.mark.parametrize("format, tolerance", [("WAV", 1e-4), ("FLAC", 1e-4), ("OGG", 0.1), ("MP3", 0.1)])
    def test_formats(self, soundfile, format, tolerance):
        wave = 0.5 * sine(440, 16_000)
        result = DecodeAudio(16_000)({"audio": self.encode(soundfile, wave, 16_000, format), "text": "a"}, RNG)
        assert result["text"] == "a" and result["audio"].dtype == np.float32
        assert abs(len(result["audio"]) - len(wave)) < 3000  # MP3 has whole frames
        n = min(len(wave), len(result["audio"]))
        assert abs(result["audio"][:n] - wave[:n])[1000:-1000].max() < tolerance

    def test_channels_are_averaged(self, soundfile):
        stereo = np.stack([0.5 * sine(440, 8000), np.zeros(4000, np.float32)], axis=1)
        result = DecodeAudio(8000)({"audio": self.encode(soundfile, stereo, 8000)}, RNG)["audio"]
        np.testing.assert_allclose(result, 0.25 * sine(440, 8000), atol=1e-4)

    def test_resampled(self, soundfile):
        data = self.encode(soundfile, 0.5 * sine(440, 44_100), 44_100)
        result = DecodeAudio(16_000)({"audio": data}, RNG)["audio"]
        assert result.shape == (8000,)
        np.testing.assert_allclose(result[200:-200], 0.5 * sine(440, 16_000)[200:-200], atol=2e-3)

    @pytest.mark.parametrize("data", [b"", b"no sound", b"RIFF\x24\0\0\0WAVEfmt "])
    def test_what_is_no_sound_is_bad(self, soundfile, data):
        with pytest.raises(BadRecord, match="no sound can be made of it"):
            DecodeAudio(16_000)({"audio": data}, RNG)

    def test_a_sound_without_samples_is_bad(self, soundfile):
        with pytest.raises(BadRecord, match="a sound of 0 samples"):
            DecodeAudio(16_000)({"audio": self.encode(soundfile, np.zeros(0, np.float32), 16_000)}, RNG)

    def test_workers_can_have_it(self, soundfile):
        data = self.encode(soundfile, sine(440, 8000), 8000)
        copy = pickle.loads(pickle.dumps(DecodeAudio(8000)))
        assert np.array_equal(copy({"audio": data}, RNG)["audio"], DecodeAudio(8000)({"audio": data}, RNG)["audio"])


class TestResample:
    @pytest.mark.parametrize("rate, new_rate", [(48_000, 16_000), (16_000, 48_000), (44_100, 16_000), (8_000, 16_000)])
    def test_tones_stay(self, rate, new_rate):
        result = resample(sine(1000, rate), rate, new_rate)
        assert result.dtype == np.float32 and len(result) == new_rate // 2
        np.testing.assert_allclose(result[300:-300], sine(1000, new_rate)[300:-300], atol=2e-3)

    def test_what_the_new_rate_cannot_hold_goes(self):
        assert abs(resample(sine(12_000, 48_000), 48_000, 16_000)[300:-300]).max() < 2e-3


def test_crop():
    wave = np.arange(1, 11, dtype=np.float32)
    starts = set()
    for seed in range(100):
        part = CropAudio(4)({"audio": wave}, np.random.default_rng(seed))["audio"]
        assert (np.diff(part) == 1).all() and part.shape == (4,)
        starts.add(int(part[0]))
    assert starts == set(range(1, 8))
    assert CropAudio(4, random=False)({"audio": wave}, RNG)["audio"].tolist() == [1, 2, 3, 4]
    assert CropAudio(12)({"audio": wave}, RNG)["audio"].tolist() == [*range(1, 11), 0, 0]


def reference(wave, mel):
    """The same from SciPy's transform, in float64, one band at a time."""
    padded = np.pad(wave.astype(np.float64), mel.window // 2, mode="reflect")
    window = scipy.signal.get_window("hann", mel.window)
    stft = scipy.signal.ShortTimeFFT(window, mel.hop, mel.rate, fft_mode="onesided")
    count = len(wave) // mel.hop + (mel.log == "db")
    frames = np.stack([padded[k * mel.hop : k * mel.hop + mel.window] for k in range(count)])
    power = abs(np.fft.rfft(frames * stft.win)) ** 2
    bands = np.log10(np.maximum(power @ mel_filters(mel).astype(np.float64), 1e-10))
    return 10 * bands if mel.log == "db" else (np.maximum(bands, bands.max() - 8) + 4) / 4


@pytest.mark.parametrize("mel", [WHISPER, CLAP, WHISPER._replace(mels=128)], ids=["whisper", "clap", "large-v3"])
def test_log_mel_on_host_and_device(mel):
    wave = (sine(440, mel.rate) + 0.1 * RNG.standard_normal(mel.rate // 2)).astype(np.float32)
    expected = reference(wave, mel)
    tolerance = 1e-3 * abs(expected).max()
    assert expected.shape == (50 + (mel.log == "db"), mel.mels)
    np.testing.assert_allclose(log_mel(wave, mel, np), expected, atol=tolerance)
    on_device = jax.jit(functools.partial(log_mel, mel=mel))(jnp.asarray(np.stack([wave, 0.1 * wave])))
    assert on_device.dtype == jnp.float32 and on_device.shape == (2, *expected.shape)
    np.testing.assert_allclose(on_device[0], expected, atol=tolerance)
    np.testing.assert_allclose(on_device[1], reference(0.1 * wave, mel), atol=tolerance)


@pytest.mark.parametrize("preset, rate", [("whisper", 16_000), ("clap", 48_000)])
def test_a_tone_is_in_its_band(preset, rate):
    transform = registry.build("transform", {"kind": "log_mel", "preset": preset})
    levels = []
    for frequency in (300, 1000, 3000, 6000):
        result = transform({"audio": sine(frequency, rate)}, RNG)["audio"]
        assert result.dtype == np.float32
        levels.append(int(result.mean(axis=0).argmax()))
    assert levels == sorted(set(levels))
    assert registry.build("transform", {"kind": "log_mel", "mels": 40})({"audio": sine(300, 16_000)}, RNG)[
        "audio"
    ].shape == (50, 40)
    assert LogMel("clap").mel == CLAP


def test_htk_bands_have_equal_height_and_slaney_bands_equal_area():
    wide = WHISPER._replace(window=4000)  # fine enough that sums are integrals
    assert mel_filters(wide._replace(scale="htk")).max(axis=0) == pytest.approx(1.0, abs=0.1)
    assert mel_filters(wide).sum(axis=0) * wide.rate / wide.window == pytest.approx(1.0, rel=0.05)

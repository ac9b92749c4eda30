"""Transforms and tokenizers give what torchvision, transformers and open_clip give."""

import importlib
import itertools
import unicodedata

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

for package in ("torch", "torchvision", "transformers", "open_clip"):
    pytest.importorskip(package, reason=f"compares with {package}: pip install '.[interop-test]'")

import open_clip  # noqa: E402
import torch  # noqa: E402
import torchvision.transforms.functional as tv  # noqa: E402
from torchvision.transforms import InterpolationMode, RandAugment  # noqa: E402

from bigcl.data.cleaning import clean_text  # noqa: E402
from bigcl.data.tokenizers import CLIP  # noqa: E402
from bigcl.data.transforms import augment, image  # noqa: E402
from bigcl.data.transforms.audio import CLAP, WHISPER, log_mel  # noqa: E402
from bigcl.data.transforms.naflex import Naflex  # noqa: E402

RNG = np.random.default_rng(0)
SMALL = RNG.integers(40, 216, (9, 12, 3), np.uint8)
PICTURE = np.asarray(Image.fromarray(SMALL).resize((120, 90), Image.Resampling.BICUBIC))
PIL = Image.fromarray(PICTURE)


def close(result, expected, tolerance=0):
    result, expected = np.asarray(result), np.asarray(expected)
    assert result.shape == expected.shape
    assert abs(result.astype(float) - expected).max() <= tolerance


class TestColour:
    @pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.7])
    @pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "sharpness"])
    def test_adjustments(self, name, factor):
        close(augment.ADJUST[name](PIL, factor), getattr(tv, f"adjust_{name}")(PIL, factor))

    @pytest.mark.parametrize("turns", [-0.5, -0.1, 0.0, 0.04, 0.3, 0.5])
    def test_hue(self, turns):
        close(augment.shift_hue(PIL, turns), tv.adjust_hue(PIL, turns))

    def test_grayscale(self):
        close(augment.Grayscale()({"image": PICTURE}, RNG)["image"], tv.to_grayscale(PIL, 3))

    @pytest.mark.parametrize("threshold", [0, 100, 128, 255])
    def test_solarize(self, threshold):
        close(augment.Solarize(threshold)({"image": PICTURE}, RNG)["image"], tv.solarize(PIL, threshold))

    @pytest.mark.parametrize("sigma", [0.5, 1.5, 3.0])
    def test_blur(self, sigma):
        expected = tv.gaussian_blur(torch.from_numpy(PICTURE).permute(2, 0, 1), 25, sigma).permute(1, 2, 0)
        inner = slice(12, -12)  # the pictures go on differently beyond their edges
        blurred = augment.GaussianBlur((sigma, sigma))({"image": PICTURE}, RNG)["image"]
        close(blurred[inner, inner], expected[inner, inner], 4)


NAMES = {
    "identity": "Identity", "shear_x": "ShearX", "shear_y": "ShearY", "translate_x": "TranslateX",
    "translate_y": "TranslateY", "rotate": "Rotate", "brightness": "Brightness", "saturation": "Color",
    "contrast": "Contrast", "sharpness": "Sharpness", "posterize": "Posterize", "solarize": "Solarize",
    "autocontrast": "AutoContrast", "equalize": "Equalize",
}  # fmt: skip


def test_randaugment_has_the_same_operations():
    assert augment.OPERATIONS.keys() == NAMES.keys()
    assert RandAugment()._augmentation_space(31, (90, 120)).keys() == set(NAMES.values())


@pytest.mark.parametrize("magnitude", [3, 9, 20, 30])
@pytest.mark.parametrize("name", NAMES)
def test_randaugment_operations(name, magnitude):
    apply = importlib.import_module("torchvision.transforms.autoaugment")._apply_op
    values, signed = RandAugment()._augmentation_space(31, (90, 120))[NAMES[name]]
    level = float(values[magnitude]) if values.ndim else 0.0
    for sign in (1, -1) if signed else (1,):
        theirs = -sign if name.startswith("translate") else sign  # the other way; each is drawn half of the time
        expected = apply(PIL, NAMES[name], theirs * level, InterpolationMode.BILINEAR, [128, 128, 128])
        result = np.asarray(augment.OPERATIONS[name](PIL, magnitude / 30, sign))
        differs = abs(result.astype(int) - np.asarray(expected)).max(axis=-1) > 1
        # Where new pixels lie just on the edge of the picture, rounding decides whether they are grey.
        assert differs.mean() <= (0.01 if name.startswith("shear") else 0)


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_resize_is_torchvisions_of_pillow(method):
    expected = tv.resize(PIL, [40, 64], InterpolationMode(method))
    close(image.Resize([40, 64], method)({"image": PICTURE}, RNG)["image"], expected, 1)


@pytest.mark.parametrize("fast", [False, True])
def test_evaluation_pictures_are_open_clips(fast, monkeypatch):
    """Its evaluation transform: shorter side to the size, middle, normalised."""
    if fast:
        pytest.importorskip("cykooz_resizer")
    monkeypatch.setattr(image, "FAST_RESIZE", fast)
    transform = open_clip.image_transform(64, is_train=False)
    example = image.CenterCrop(64)(image.Resize(64)({"image": PICTURE}, RNG), RNG)
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    ours = (example["image"] / np.float32(255) - np.float32(mean)) / np.float32(std)
    expected = transform(PIL).permute(1, 2, 0).numpy()
    close(ours, expected, 2.01 / 255 / min(std) if fast else 1e-5)


@pytest.mark.parametrize("shape", [(90, 120), (300, 31), (64, 64), (20, 700)])
@pytest.mark.parametrize("patch, tokens", [(16, 256), (14, 100)])
def test_naflex_patches_are_siglip2s(shape, patch, tokens):
    from transformers import Siglip2ImageProcessor

    picture = np.asarray(PIL.resize(shape[::-1]))
    theirs = Siglip2ImageProcessor(patch_size=patch, max_num_patches=tokens)(picture, return_tensors="np")
    ours = Naflex(patch, tokens)({"image": picture}, RNG)
    assert ours["image_shape"].tolist() == theirs["spatial_shapes"][0].tolist()
    assert ours["image_mask"].tolist() == theirs["pixel_attention_mask"][0].astype(bool).tolist()
    normal = (ours["image"] / 127.5 - 1) * ours["image_mask"][:, None]
    close(normal, theirs["pixel_values"][0], 1.01 * 2 / 255)


class TestSpectrogram:
    WAVE = (0.3 * np.sin(np.arange(48_000) * 0.05) + 0.05 * RNG.standard_normal(48_000)).astype(np.float32)

    @pytest.mark.parametrize("mels", [80, 128])
    def test_whisper(self, mels):
        from transformers import WhisperFeatureExtractor

        extractor = WhisperFeatureExtractor(feature_size=mels, chunk_length=3)
        expected = extractor(self.WAVE, sampling_rate=16_000, return_tensors="np").input_features[0].T
        close(log_mel(self.WAVE, WHISPER._replace(mels=mels), np), expected, 2e-3)

    def test_clap(self):
        from transformers import ClapFeatureExtractor

        extractor = ClapFeatureExtractor(max_length_s=1, truncation="rand_trunc")
        fusion = extractor._np_extract_fbank_features(self.WAVE, extractor.mel_filters)
        close(log_mel(self.WAVE, CLAP, np), fusion, 0.05)
        slaney = extractor(self.WAVE, sampling_rate=48_000, return_tensors="np").input_features[0, 0]
        close(log_mel(self.WAVE, CLAP._replace(scale="slaney"), np), slaney, 0.05)


OLD = [chr(c) for c in itertools.chain(range(1, 0x3000), range(0x4E00, 0x5000), range(0x1F300, 0x1F600))]
KNOWN = "".join(c for c in OLD if unicodedata.ucd_3_2_0.category(c) not in ("Cn", "Cs"))  # of any Unicode version


class TestText:
    TOKENIZER, REFERENCE = CLIP(), open_clip.SimpleTokenizer()

    @pytest.mark.parametrize("mode", ["whitespace", "lower", "canonicalize"])
    @given(text=st.text(st.sampled_from(KNOWN) | st.sampled_from(" &;<>_.,'\"amplt\n\tABC"), max_size=40))
    @settings(max_examples=200, deadline=None)
    def test_cleaning(self, mode, text):
        assert clean_text(text, mode) == open_clip.tokenizer.get_clean_fn(mode)(text)

    @given(text=st.text(st.sampled_from(KNOWN) | st.sampled_from("abcdefghij 'stremlvd0123456789&;,."), max_size=120))
    @settings(max_examples=500, deadline=None)
    def test_clip_ids(self, text):
        assume(set(clean_text(text, "lower")) <= {*KNOWN, " "})  # what is repaired can be of a newer Unicode version
        assert self.TOKENIZER(text, 77).tolist() == self.REFERENCE([text])[0].tolist()

    def test_clip_ids_of_captions(self):
        texts = [
            "a photo of a cat",
            "It's 42°C in the naïve cafés",
            "I'LL can't WE'VE",
            "😀👍🏽 漢字",
            "word " * 100,
            "",
        ]
        assert self.TOKENIZER(texts, 77).tolist() == self.REFERENCE(texts).tolist()
        assert self.TOKENIZER.vocab_size == self.REFERENCE.vocab_size == 49_408
        assert self.TOKENIZER.decode(self.TOKENIZER("a cat's 😀", 9)) == "a cat 's 😀 "

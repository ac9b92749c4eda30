"""Noise on features."""

import numpy as np
import pytest

from bigcl import registry


def test_noise_is_drawn_anew_and_changes_no_array_of_the_source():
    noise = registry.build("transform", {"kind": "noise", "deviation": 0.5, "keys": ["a", "b"]})
    example = {"a": np.zeros(20_000, np.float32), "b": np.ones((3, 4), np.float64), "label": 1}
    first, second = (noise(example, np.random.default_rng(seed)) for seed in (0, 1))
    assert not example["a"].any() and first["label"] == 1
    assert first["a"].dtype == np.float32 and first["b"].dtype == np.float64 and first["b"].shape == (3, 4)
    assert abs(first["a"].mean()) < 0.02 and abs(first["a"].std() - 0.5) < 0.02
    assert abs(np.corrcoef(first["a"], second["a"])[0, 1]) < 0.05
    np.testing.assert_array_equal(first["a"], noise(example, np.random.default_rng(0))["a"])


def test_whole_numbers_take_no_noise():
    noise = registry.build("transform", {"kind": "noise", "deviation": 0.5})
    with pytest.raises(TypeError, match="noise: 'image' is uint8; expected floats"):
        noise({"image": np.zeros(3, np.uint8)}, np.random.default_rng(0))

"""Sources in memory."""

import numpy as np
import pytest

from bigcl.data.sources.arrays import Arrays, Synthetic


def test_arrays_gives_rows():
    source = Arrays({"x": np.arange(6).reshape(3, 2), "text": ["a", "b", "c"]})
    assert len(source) == 3
    assert source[1]["x"].tolist() == [2, 3] and source[1]["text"] == "b"


@pytest.mark.parametrize("arrays", [{}, {"x": [1, 2], "y": [1]}])
def test_arrays_must_be_equally_long(arrays):
    with pytest.raises(ValueError, match="same length"):
        Arrays(arrays)


SPEC = {
    "image": {"shape": [4, 5, 3], "dtype": "uint8"},
    "text": {"shape": [1000], "dtype": "int32", "high": 7},
    "audio": {"shape": [1000]},
    "half": {"shape": [2], "dtype": "float16"},
    "flag": {"dtype": "bool"},
}


def test_synthetic_has_the_shapes_and_types_asked_for():
    example = Synthetic(SPEC)[0]
    assert {k: (v.shape, str(v.dtype)) for k, v in example.items()} == {
        "image": ((4, 5, 3), "uint8"),
        "text": ((1000,), "int32"),
        "audio": ((1000,), "float32"),
        "half": ((2,), "float16"),
        "flag": ((), "bool"),
    }
    assert set(example["text"].tolist()) == set(range(7))
    assert abs(example["audio"].std() - 1) < 0.2


def test_synthetic_is_a_function_of_seed_and_index():
    first, again, other = Synthetic(SPEC), Synthetic(SPEC), Synthetic(SPEC, seed=1)
    assert np.array_equal(first[3]["image"], again[3]["image"])
    assert not np.array_equal(first[3]["image"], first[4]["image"])
    assert not np.array_equal(first[3]["image"], other[3]["image"])


def test_synthetic_ends_where_its_size_says():
    source = Synthetic(SPEC, size=2)
    assert len(list(source)) == len(source) == 2


def test_synthetic_refuses_unknown_keys():
    with pytest.raises(ValueError, match=r"synthetic\.spec\.x: unknown \['type'\]"):
        Synthetic({"x": {"shape": [1], "type": "uint8"}})

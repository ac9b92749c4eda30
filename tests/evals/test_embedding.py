"""One pass over a source: every example once, in order, with its own embedding."""

import numpy as np
import pytest

from bigcl.data.sources import BadRecord
from bigcl.data.sources.arrays import Arrays
from bigcl.evals.embedding import embed, labels
from bigcl.registry import ConfigError


@pytest.mark.parametrize("rows, batch", [(10, 4), (8, 4), (3, 7), (1, 1)])
def test_every_example_once_and_in_order(rows, batch):
    x = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)
    sizes = []

    def encode(inputs):
        sizes.append(len(inputs["a"]))
        assert set(inputs) == {"a"}
        return {"a": inputs["a"] + 1, "b": 0 * inputs["a"]}

    found = embed(Arrays({"a": x}), [], encode, inputs=["a"], batch=batch)
    np.testing.assert_array_equal(found["a"], x + 1)
    assert set(found) == {"a"}
    assert sizes == [batch] * -(-rows // batch)  # one shape, one compilation


def test_processes_share_the_work(monkeypatch):
    """Three processes, played one after the other, and the gathering of what they give."""
    x = np.arange(14, dtype=np.float32)[:, None]
    given = []
    for process in range(3):
        monkeypatch.setattr("jax.process_index", lambda p=process: p)
        monkeypatch.setattr("jax.process_count", lambda: 3)
        gather = "jax.experimental.multihost_utils.process_allgather"
        monkeypatch.setattr(gather, lambda tree, tiled: given.append(tree) or tree)
        embed(Arrays({"a": x}), [], lambda batch: {"a": batch["a"]}, inputs=["a"], batch=6)

    def everything(tree, tiled):
        assert tiled
        return np.concatenate([i for i, _ in given]), {"a": np.concatenate([f["a"] for _, f in given])}

    monkeypatch.setattr(gather, everything)
    assert [len(index) for index, _ in given] == [6, 6, 6]
    found = embed(Arrays({"a": x}), [], lambda batch: {"a": batch["a"]}, inputs=["a"], batch=6)
    np.testing.assert_array_equal(found["a"], x)


def test_an_input_that_is_not_embedded():
    with pytest.raises(ConfigError, match="'imag' was embedded; did you mean 'image'"):
        embed(Arrays({"a": np.ones((2, 2))}), [], lambda batch: {"image": batch["a"]}, inputs=["imag"], batch=2)


def test_labels_may_be_nested():
    source = Arrays({"meta": [{"group": "x"}, {"group": None}]})
    assert labels(source, "meta/group") == ["x", None]
    with pytest.raises(KeyError, match="groop"):
        labels(source, "meta/groop")


def test_a_label_that_cannot_be_read_says_where_it_lies():
    class Broken(Arrays):
        def __getitem__(self, index):
            raise BadRecord("pictures", "k7", "0.tar", 512, "ends early")

    with pytest.raises(BadRecord, match=r"pictures, 0\.tar, byte 512, k7: ends early"):
        labels(Broken({"label": [1, 2]}), "label")

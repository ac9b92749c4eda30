"""Galleries: what may be one, and the file they travel in."""

import dataclasses

import numpy as np
import pytest

from bigcl import registry
from bigcl.report import Gallery, load_gallery, save_gallery
from bigcl.report.collect import collect
from tests.evals.reference import mesh


def gallery(**changes) -> Gallery:
    """Three pairs with pictures of three sizes."""
    fields = {
        "images": np.eye(3, 4, dtype=np.float32),
        "texts": np.eye(3, 4, 1, dtype=np.float32),
        "thumbnails": [
            np.full((4, 5, 3), 7, np.uint8),
            np.arange(27, dtype=np.uint8).reshape(3, 3, 3),
            np.zeros((1, 9, 3), np.uint8),
        ],
        "captions": ["a \u2603 snowman", "", "<b>bold</b>"],
        "groups": ["weather", None, "markup"],
        "scale": 12.5,
    }
    return Gallery(**{**fields, **changes})


HEAT = {2: np.eye(2, dtype=np.float32), 0: np.zeros((2, 2), np.float32)}


@pytest.mark.parametrize("changes", [{}, {"attribution": "by nobody", "names": ("audio", "text")}, {"heat": HEAT}])
def test_a_gallery_comes_back_from_its_file_as_it_was(tmp_path, changes):
    before = gallery(**changes)
    save_gallery(before, tmp_path / "gallery.npz")
    after = load_gallery(tmp_path / "gallery.npz")
    for field in dataclasses.fields(Gallery):
        was, now = getattr(before, field.name), getattr(after, field.name)
        if field.name in ("images", "texts", "thumbnails"):
            for a, b in zip(was, now, strict=True):
                np.testing.assert_array_equal(a, b, strict=True)
        elif field.name == "heat":
            assert list(was) == list(now) and all((was[i] == now[i]).all() for i in was)
        else:
            assert now == was
    assert [path.name for path in tmp_path.iterdir()] == ["gallery.npz"]


def test_an_empty_gallery_can_be_stored(tmp_path):
    none = np.zeros((0, 4), np.float32)
    save_gallery(gallery(images=none, texts=none, thumbnails=[], captions=[], groups=[]), tmp_path / "gallery.npz")
    assert len(load_gallery(tmp_path / "gallery.npz")) == 0


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"captions": ["one"]}, "1 captions for 3 pairs"),
        ({"texts": np.eye(2, 4, dtype=np.float32)}, r"\[N, D\] on both sides"),
        ({"texts": np.full((3, 4), np.nan, np.float32)}, "not finite"),
        ({"thumbnails": [np.zeros((2, 2, 3), np.float32)] * 3}, "thumbnail 0 must be uint8"),
        ({"thumbnails": [np.zeros((2, 2, 4), np.uint8)] * 3}, r"got uint8 \[2, 2, 4\]"),
    ],
)
def test_what_is_no_gallery_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        gallery(**changes)


@pytest.mark.parametrize("content", [b"no archive", None])
def test_a_file_that_is_no_gallery_is_named(tmp_path, content):
    path = tmp_path / "gallery.npz"
    if content is None:
        np.savez(path, images=np.array([{}], dtype=object))
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"gallery\.npz is not a gallery"):
        load_gallery(path)


def test_the_first_text_of_each_example_is_shown():
    """An example without one is left out; embeddings, pictures and captions belong together."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (4, 2, 2, 3)).astype(np.uint8)
    arrays = {"image": pictures, "words": [["aa", "b"], None, "c", ["dddd", "e", "ff"]]}
    part = {"kind": "retrieval", "source": {"kind": "arrays", "arrays": arrays}, "texts": "words", "length": 1}
    part["transforms"] = [{"kind": "keep", "keys": ["image"]}]

    def tokens(texts, length):
        return np.array([[len(t)] for t in texts], np.int32)

    def encode(batch):
        sums = {k: v.reshape(len(v), -1).sum(1, dtype=np.float32) for k, v in batch.items() if k in ("image", "text")}
        return {k: np.stack([np.cos(v), np.sin(v)], 1) for k, v in sums.items()}

    evaluator = registry.build("evaluator", part, mesh=mesh(1), tokenizer=tokens)
    evaluator.run(encode)
    shown = collect({"retrieval": evaluator}, 10.0)
    assert shown.captions == ["aa", "c", "dddd"]
    np.testing.assert_array_equal(shown.thumbnails, pictures[[0, 2, 3]])
    np.testing.assert_allclose(shown.images, encode({"image": pictures[[0, 2, 3]]})["image"], atol=1e-6)
    np.testing.assert_allclose(shown.texts, encode({"text": np.array([[2], [1], [4]])})["text"], atol=1e-6)


def test_pictures_among_pictures_and_sounds_have_no_captions():
    pictures = np.zeros((4, 2, 2, 3), np.uint8)
    arrays = {"image": pictures, "text": [b"\x89PNG", b"RIFF\xff", b"\xfe", b"\xff"], "kind": ["a", "a", "b", "b"]}

    def encode(batch):
        return {"image": np.ones((len(batch["image"]), 2), np.float32), "text": np.ones((len(batch["image"]), 2))}

    for options in ({"query": "image", "label": "kind"}, {}):
        part = {"kind": "retrieval", "source": {"kind": "arrays", "arrays": arrays}, **options}
        part["transforms"] = [{"kind": "keep", "keys": ["image"]}]
        evaluator = registry.build("evaluator", part, mesh=mesh(1), tokenizer=None)
        evaluator.run(encode)
        assert collect({"retrieval": evaluator}, 10.0) is None


def test_groups_may_be_numbers(tmp_path):
    save_gallery(gallery(groups=[0, None, 2]), tmp_path / "gallery.npz")
    assert load_gallery(tmp_path / "gallery.npz").groups == ["0", None, "2"]

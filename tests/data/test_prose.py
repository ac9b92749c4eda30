"""Sentences of licences and docstrings, and the picture that stands in for what they do not show."""

import numpy as np

from bigcl.data.sources.prose import Prose, sentences
from bigcl.data.transforms.null_image import NullImage, null_image

PACKAGES = ("pillow", "optax")


def test_sentences_are_short_and_of_letters():
    text = (
        "Copyright 2020 by us.\n\nThe software is\n  provided as it is: it fails. No x_y. Too short.\n\nGood, old words"
    )
    assert sentences(text) == ["The software is provided as it is", "Good, old words"]


def test_splits_hold_each_sentence_once():
    train, test = Prose("train", PACKAGES), Prose("test", PACKAGES)
    texts = [source[i]["text"] for source in (train, test) for i in range(len(source))]
    assert len(texts) == len(set(texts)) > 100
    assert len(test) == -(-len(texts) // 10)
    assert all(3 <= len(text.split()) <= 12 for text in texts)
    assert train[0]["image"] is None


def test_the_null_image_stands_where_there_is_none():
    rng, picture = np.random.default_rng(0), np.zeros((8, 8, 3), np.uint8)
    transform = NullImage(8, seed=3)
    np.testing.assert_array_equal(transform({"image": None}, rng)["image"], null_image(8, 3))
    assert transform({"image": picture}, rng)["image"] is picture
    moved = NullImage(8, seed=3, transforms=[{"kind": "shift", "pixels": 3}])
    marked = picture.copy()
    marked[4, 4] = 255
    assert len({moved({"image": marked}, np.random.default_rng(s))["image"].tobytes() for s in range(9)}) > 1
    for seed in range(9):
        image = moved({"image": None}, np.random.default_rng(seed))["image"]
        np.testing.assert_array_equal(image, null_image(8, 3))
    assert abs(null_image(64).mean() - 127.5) < 4 * 74 / (64 * 64 * 3) ** 0.5  # the deviation of even numbers is 73.9
    assert (null_image(8, 0) != null_image(8, 1)).any()


def test_one_picture_for_all():
    first = np.full((1, 8, 8, 3), 7, np.uint8)
    transform = NullImage(8, common={"kind": "arrays", "arrays": {"image": first}})
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(transform({"image": np.zeros((8, 8, 3), np.uint8)}, rng)["image"], first[0])
    np.testing.assert_array_equal(transform({"image": None}, rng)["image"], null_image(8))

"""Scenes whose parts occur in one order alone."""

import numpy as np

from bigcl import registry


def read(split, seed=3):
    source = registry.build("source", {"kind": "scenes", "split": split, "seed": seed})
    examples = [source[i] for i in range(len(source))]
    return {key: np.stack([e[key] for e in examples]) for key in examples[0]}


def test_each_set_of_parts_has_one_arrangement():
    train, test = read("train"), read("test")
    assert (len(train["text"]), len(test["text"])) == (500, 284)
    text = np.concatenate([train["text"], test["text"]])
    colours, shapes = text[:, ::2], text[:, 1::2]
    assert set(colours.flat) == set(range(8)) and set(shapes.flat) == set(range(8, 16))
    sets = {(*sorted(c), *sorted(s)) for c, s in zip(colours.tolist(), shapes.tolist(), strict=True)}
    assert len(sets) == len(text) == 28 * 28
    assert abs((shapes[:, 0] < shapes[:, 1]).mean() - 0.5) < 0.1  # which one is chance
    np.testing.assert_array_equal(train["shapes"], train["text"][:, [0, 3, 2, 1]])
    np.testing.assert_array_equal(train["colours"], train["text"][:, [2, 1, 0, 3]])


def test_a_token_is_the_sum_of_its_parts():
    """Least squares on the parts leaves nothing, and finds vectors of the sizes stated."""
    scenes = [read(split) for split in ("train", "test")]
    text, image = (np.concatenate([s[key] for s in scenes]) for key in ("text", "image"))
    parts = np.zeros((len(text), 2, 18))
    for place in (0, 1):
        for column in (text[:, 2 * place], text[:, 2 * place + 1], np.full(len(text), 16 + place)):
            parts[np.arange(len(text)), place, column] = 1
    vectors, *_ = np.linalg.lstsq(parts.reshape(-1, 18), image.reshape(-1, 24), rcond=None)
    left = image.reshape(-1, 24) - parts.reshape(-1, 18) @ vectors
    np.testing.assert_allclose(left, 0, atol=1e-5)
    assert abs((vectors[16] - vectors[17]).std() - 0.3 * 2**0.5) < 0.2
    assert abs(vectors[:8].std(0).mean() - 0.8) < 0.15 and abs(vectors[8:16].std(0).mean() - 1) < 0.2


def test_scenes_depend_on_the_seed_alone():
    np.testing.assert_array_equal(read("train")["image"], read("train")["image"])
    assert not np.array_equal(read("train")["image"], read("train", seed=4)["image"])

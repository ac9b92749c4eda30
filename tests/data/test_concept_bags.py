"""Pictures of concepts among clutter, and texts that name them."""

import numpy as np

from bigcl import registry


def test_a_picture_shows_what_its_text_names():
    source = registry.build("source", {"kind": "concept_bags", "size": 800, "seed": 4})
    places, rest = [], []
    for example in (source[i] for i in range(len(source))):
        image, text = example["image"], example["text"]
        assert image.shape == (9, 16) and image.dtype == np.float32 and text.dtype == np.int32
        concepts, fillers = text[:3], text[3:]
        assert len({*concepts}) == 3 and concepts.max() < 32
        assert len({*fillers}) == 2 and fillers.min() >= 32 and fillers.max() < 52
        apart = np.square(image[:, None] - source.prototypes[concepts][None]).mean(2)
        places.append(apart.argmin(0))
        assert len({*places[-1]}) == 3 and apart.min(0).max() < 0.09 * 3.5
        rest.append(np.delete(image, places[-1], 0))
    places, rest = np.array(places), np.array(rest)
    share = np.bincount(places.ravel(), minlength=9) / places.size
    np.testing.assert_allclose(share, 1 / 9, atol=0.03)  # in random order
    assert abs(rest.mean()) < 0.02 and abs(rest.std() - 1) < 0.02


def test_another_draw_is_of_the_same_concepts():
    build = lambda **o: registry.build("source", {"kind": "concept_bags", "size": 5, **o})  # noqa: E731
    first, again, other, elsewhere = build(), build(), build(draw=1), build(seed=1)
    np.testing.assert_array_equal(first[3]["image"], again[3]["image"])
    np.testing.assert_array_equal(first.prototypes, other.prototypes)
    assert not np.isclose(first[3]["image"], other[3]["image"]).any()
    assert not np.isclose(first.prototypes, elsewhere.prototypes).any()

"""Two sounds in order and reversed."""

import numpy as np

from bigcl import registry


def read(**options):
    source = registry.build("source", {"kind": "sound_pairs", **options})
    examples = [source[i] for i in range(len(source))]
    return {key: np.stack([e[key] for e in examples]) for key in examples[0]}


def test_training_holds_one_order_alone_and_the_test_both():
    train, test = read(size=2_000), read(size=2_000, split="test")
    assert (train["text"][:, 0] < train["text"][:, 2]).all() and (train["text"][:, 1] == 10).all()
    assert len(np.unique(train["text"], axis=0)) == 45 and len(np.unique(test["text"], axis=0)) == 90
    assert abs((test["text"][:, 0] < test["text"][:, 2]).mean() - 0.5) < 0.05
    np.testing.assert_array_equal(test["text_reversed"], test["text"][:, ::-1])
    halves = test["audio"].reshape(-1, 2, 4, 16)
    np.testing.assert_array_equal(test["audio_reversed"].reshape(-1, 2, 4, 16), halves[:, ::-1])


def test_a_sound_is_the_spectrum_of_its_class_and_noise():
    """The classes sound alike in both splits."""
    means = []
    for split in ("train", "test"):
        found = read(size=4_000, split=split, seed=5)
        sounds, classes = found["audio"].reshape(-1, 4, 16), found["text"][:, ::2].reshape(-1)
        mean = np.stack([sounds[classes == c].mean((0, 1)) for c in range(10)])
        assert abs((sounds - mean[classes][:, None]).std() - 0.7) < 0.01
        means.append(mean)
    np.testing.assert_allclose(means[0], means[1], atol=0.1)
    assert abs(means[0].std() - 1) < 0.2

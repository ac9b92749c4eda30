"""Two views of a hidden vector, in two domains."""

import numpy as np

from bigcl import registry


def columns(domain, size=6_000, **options):
    source = registry.build("source", {"kind": "domains", "domain": domain, "size": size, **options})
    return {k: np.stack([source[i][k] for i in range(size)]) for k in source[0]}


def latent(domain):
    """The hidden covariance as seen without noise and saturation: how many directions the views move in."""
    views = np.concatenate(list(columns(domain).values()), 1).astype(np.float64)
    values = np.linalg.eigvalsh(np.cov(views.T))[::-1]
    return int((values > 3 * 0.09).sum())


def test_the_narrow_domain_moves_in_fewer_directions():
    assert latent("whole") == 16 and latent("narrow") == 10


def test_views_share_what_is_hidden_and_nothing_else():
    found = columns("whole")
    assert found["image"].dtype == np.float32 and found["text"].shape == (6_000, 48)
    a, b = found["image"].astype(np.float64), found["text"].astype(np.float64)

    def explained(rows):
        fit = np.linalg.lstsq(a, b[rows], rcond=None)[0]
        return 1 - np.square(b[rows] - a @ fit).sum() / np.square(b - b.mean(0)).sum()

    assert explained(np.arange(6_000)) > 0.5 and explained(np.roll(np.arange(6_000), 1)) < 0.05


def test_domains_of_a_seed_share_their_maps():
    """In both, the first ten hidden numbers move the picture in the same directions."""
    spans = []
    for domain, draw, seed in (("narrow", 0, 2), ("narrow", 1, 2), ("whole", 0, 2), ("narrow", 0, 3)):
        x = columns(domain, draw=draw, seed=seed)["image"].astype(np.float64)
        _, vectors = np.linalg.eigh(np.cov(x.T))
        spans.append(vectors[:, -(16 if domain == "whole" else 10) :])
    inside = [np.linalg.svd(spans[0].T @ other, compute_uv=False).min() for other in spans[1:]]
    assert inside[0] > 0.95 and inside[1] > 0.9 and inside[2] < 0.5
    np.testing.assert_array_equal(columns("whole", 5)["text"], columns("whole", 5)["text"])
    assert not np.isclose(columns("whole", 5)["text"], columns("whole", 5, draw=1)["text"]).any()

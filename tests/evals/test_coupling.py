"""The coupling multiplier against the gradients that define it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigcl import registry
from bigcl.evals.coupling import gradient_error, multiplier
from bigcl.registry import ConfigError


def build(a, b, **options):
    part = {"kind": "coupling", "source": {"kind": "arrays", "arrays": {"a": a, "b": b}}, "batch": 8, **options}
    return registry.build("evaluator", part, tokenizer=None, mesh=None)


def encode(batch):
    return {k: v / np.linalg.norm(v, axis=1, keepdims=True) for k, v in batch.items() if k in ("a", "b")}


@pytest.fixture
def views():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(37, 6)) + 2
    return a.astype(np.float32), (a + rng.normal(size=a.shape)).astype(np.float32)


@jax.jit
def gradients(z, positive, negatives):
    """Of NT-Xent and of DCL, for one anchor."""
    nt_xent = lambda z: jnp.log(jnp.exp(positive @ z) + jnp.exp(negatives @ z).sum()) - positive @ z  # noqa: E731
    dcl = lambda z: jnp.log(jnp.exp(negatives @ z).sum()) - positive @ z  # noqa: E731
    return jax.grad(nt_xent)(z), jax.grad(dcl)(z)


@pytest.mark.parametrize("centre", [False, True])
def test_it_is_what_the_gradients_differ_by(views, centre):
    sizes, scale = [3, 5, 16], 4.0
    evaluator = build(*views, sizes=sizes, temperature=1 / scale, centre=centre, seed=7)
    numbers = evaluator.run(encode)
    order = np.random.default_rng(7).permutation(37)
    a, b = (encode({"a": x})["a"].astype(np.float64)[order] for x in views)
    means, variations = [], []
    for size in sizes:
        found = []
        for start in range(0, 37 - size + 1, size):
            pair = [x[start : start + size] for x in (a, b)]
            if centre:
                middle = np.concatenate(pair).mean(0)
                pair = [(x - middle) / np.linalg.norm(x - middle, axis=1, keepdims=True) for x in pair]
            for first, second in (pair, pair[::-1]):
                for i in range(size):
                    negatives = [x[j] for x in (first, second) for j in range(size) if j != i]
                    rows = (
                        jnp.asarray(x, jnp.float32) for x in (first[i], scale * second[i], scale * np.stack(negatives))
                    )
                    coupled, free = (np.asarray(g) for g in gradients(*rows))
                    q = float(coupled @ free / (free @ free))
                    np.testing.assert_allclose(coupled, q * free, atol=2e-5)
                    found.append(q)
        np.testing.assert_allclose(
            np.sort(evaluator.artifacts[f"multiplier/{size}"].ravel()), np.sort(found), atol=1e-5
        )
        means.append(np.mean(found))
        variations.append(np.std(found) / np.mean(found))
        assert numbers[f"mean@{size}"] == pytest.approx(means[-1], abs=1e-5)
        assert numbers[f"variation@{size}"] == pytest.approx(variations[-1], abs=1e-4)
    assert numbers["mean_rise"] == pytest.approx(min(np.diff(means)), abs=1e-5)
    assert numbers["variation_fall"] == pytest.approx(min(-np.diff(variations)), abs=1e-4)
    assert numbers["variation_ratio"] == pytest.approx(variations[0] / variations[-1], rel=1e-3)
    assert 0 < numbers["gradient_error"] < 1e-5


def test_a_wrong_multiplier_is_an_error_of_the_gradient(views):
    batches = np.stack(list(encode(dict(zip("ab", views, strict=True))).values()))[:, :8].astype(np.float64)
    batches = batches.reshape(2, 2, 4, 6).swapaxes(0, 1)
    q = multiplier(batches, 4.0)
    assert gradient_error(batches, q, 4.0) < 1e-5 < 0.05 < gradient_error(batches, q[::-1], 4.0)


def test_the_scale_of_the_model_counts(views):
    def model(batch):
        return encode(batch)

    model.scale = 4.0
    assert build(*views, sizes=[4, 8]).run(model) == build(*views, sizes=[4, 8], temperature=0.25).run(encode)


@pytest.mark.parametrize("sizes", [[4], [1, 2], [4, 64]])
def test_sizes_that_there_are_not(views, sizes):
    with pytest.raises(ConfigError, match=r"coupling\.sizes: expected two or more, of 2 to 37 examples"):
        build(*views, sizes=sizes)

"""Sparsemax, pooling by codes, and tokens of several towers put together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bigcl.towers import codebook
from bigcl.towers.codebook import Codebook, QueryMap, largest_scores, sparsemax
from bigcl.towers.features import MixtureOfFeatures, interleave


@pytest.mark.parametrize("spread", [0.01, 1.0, 100.0])
def test_sparsemax_is_the_projection_onto_the_simplex(spread):
    """The conditions of Karush, Kuhn and Tucker: one distance to every entry of the support, and no smaller one to any
    other."""
    z = spread * np.random.default_rng(0).normal(size=(3, 50, 9))
    with jax.enable_x64(True):
        p = np.asarray(sparsemax(jnp.asarray(z)))
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-12)
    moved = np.where(p > 0, z - p, np.nan)
    threshold = np.nanmean(moved, -1, keepdims=True)
    assert (p >= 0).all() and np.nanmax(np.abs(moved - threshold)) < 1e-12 * max(1, spread)
    assert (z[p == 0] <= np.broadcast_to(threshold, z.shape)[p == 0] + 1e-12 * max(1, spread)).all()
    assert {0.01: 9, 100.0: 1}.get(spread, (p > 0).sum(-1)[0, 0]) == (p > 0).sum(-1)[0, 0]


def test_the_gradient_of_sparsemax_is_that_of_finite_differences():
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        z, step, cotangent = (jnp.asarray(rng.normal(size=(6, 5))) for _ in range(3))
        expected = (sparsemax(z + 1e-7 * step) - sparsemax(z - 1e-7 * step)) / 2e-7
        np.testing.assert_allclose(jax.jvp(sparsemax, (z,), (step,))[1], expected, atol=1e-8)
        gradient = jax.grad(lambda z: (cotangent * sparsemax(z)).sum())(z)
        np.testing.assert_allclose((gradient * step).sum(), (cotangent * expected).sum(), atol=1e-7)
        assert np.isfinite(jax.grad(lambda z: sparsemax(z)[0, 0])(jnp.zeros((1, 4)))).all()


def arrays(b=3, n=7, d=4, k=11, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(b, n, d)), jnp.float32), jnp.asarray(rng.normal(size=(k, d)), jnp.float32)


@pytest.mark.parametrize("tokens_at_once", [1, 2, 3, 7, 100])
def test_largest_scores_are_those_of_all_scores(tokens_at_once, monkeypatch):
    monkeypatch.setattr(codebook, "CHUNK", tokens_at_once * 3 * 11)
    queries, codes = arrays()
    plain = lambda q, c: jnp.einsum("bnd,kd->bnk", q, c).max(1)  # noqa: E731
    scalar = lambda f: jax.value_and_grad(lambda q, c: jnp.sin(f(q, c)).sum(), argnums=(0, 1))  # noqa: E731
    got, expected = (scalar(f)(queries, codes) for f in (lambda q, c: largest_scores(q, c), plain))
    jax.tree.map(lambda g, e: np.testing.assert_allclose(g, e, rtol=1e-5, atol=1e-5), got, expected)


def test_of_equal_tokens_the_first_has_the_gradient():
    queries, codes = arrays(n=1)
    twice = jnp.concatenate([queries, queries], 1)
    gradient = jax.grad(lambda q: largest_scores(q, codes).sum())(twice)
    np.testing.assert_allclose(gradient[:, 0], jnp.broadcast_to(codes.sum(0)[None], (3, 4)), rtol=1e-5)
    np.testing.assert_array_equal(gradient[:, 1], 0)


def test_no_array_of_all_scores_exists(monkeypatch):
    monkeypatch.setattr(codebook, "CHUNK", 2**16)
    b, n, d, k = 8, 64, 16, 4096
    shapes = jax.ShapeDtypeStruct((b, n, d), jnp.float32), jax.ShapeDtypeStruct((k, d), jnp.float32)
    program = jax.jit(jax.grad(lambda q, c: jnp.sin(largest_scores(q, c)).sum(), argnums=(0, 1))).lower(*shapes)
    assert program.compile().memory_analysis().temp_size_in_bytes < 4 * b * n * k / 4


@pytest.mark.parametrize("pool", ["max", "mean", "sum"])
@pytest.mark.parametrize("attention", ["sparsemax", "softmax", "sigmoid"])
def test_codebook_against_loops(pool, attention):
    queries, codes = arrays()
    mask = np.random.default_rng(2).random((3, 7)) < 0.6
    book = Codebook(11, 4, temperature=0.7, pool=pool, attention=attention, rngs=nnx.Rngs(0))
    book.codes[...] = codes
    weights = book.weights(queries, jnp.asarray(mask))
    for b in range(3):
        scores = np.array(
            [[float(q @ c) * real / 2 / 0.7 for c in codes] for q, real in zip(queries[b], mask[b], strict=True)]
        )
        pooled = getattr(scores, pool)(0)
        rule = {"sparsemax": sparsemax, "softmax": jax.nn.softmax, "sigmoid": jax.nn.sigmoid}[attention]
        expected = np.asarray(rule(jnp.asarray(pooled, jnp.float32)))
        np.testing.assert_allclose(weights[b], expected, rtol=1e-4, atol=1e-5)
        mixed = (expected / expected.sum()) @ np.asarray(codes)
        np.testing.assert_allclose(book(queries, jnp.asarray(mask))[b], mixed, rtol=1e-3, atol=1e-4)


def test_padding_has_a_score_of_zero_whatever_it_holds():
    queries, codes = arrays()
    book = Codebook(11, 4, temperature=0.1, rngs=nnx.Rngs(0))
    mask = jnp.arange(7)[None] < jnp.array([2, 5, 7])[:, None]
    noise = jnp.where(mask[:, :, None], queries, jnp.nan)
    np.testing.assert_array_equal(book.weights(noise, mask), book.weights(queries, mask))
    away = jnp.where(mask[:, :, None], -jnp.abs(queries), 1)
    book.codes[...] = jnp.abs(codes)  # all scores of real tokens are negative: padding is the largest
    np.testing.assert_allclose(book.weights(away, mask)[0], 1 / 11, rtol=1e-5)


def test_queries_in_half_precision():
    tokens = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 6)), jnp.bfloat16)
    queries = QueryMap(6, 4, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))(tokens)
    assert queries.dtype == jnp.bfloat16 and queries.shape == (2, 3, 4)
    assert Codebook(5, 4, rngs=nnx.Rngs(0))(queries).dtype == jnp.float32


def test_a_codebook_that_two_towers_share_is_one_parameter():
    class Pair(nnx.Module):
        def __init__(self, rngs):
            self.book = Codebook(5, 4, rngs=rngs)
            self.maps = nnx.Dict(image=QueryMap(6, 4, rngs=rngs), text=QueryMap(3, 4, rngs=rngs))

    paths = ["/".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(Pair(nnx.Rngs(0)), nnx.Param))]
    assert [p for p in paths if "codes" in p] == ["book/codes"] and len(paths) == 17


def test_tokens_in_turn():
    a, b = jnp.arange(12.0).reshape(2, 3, 2), 100 + jnp.arange(12.0).reshape(2, 3, 2)
    out = interleave(a, b)
    np.testing.assert_array_equal(out[:, 0::2], a)
    np.testing.assert_array_equal(out[:, 1::2], b)
    np.testing.assert_array_equal(interleave(a, b, a)[:, 2::3], a)


def test_mixtures_of_features():
    rng = np.random.default_rng(0)
    clip, dino = (jnp.asarray(rng.normal(size=(2, 3, 4)), jnp.float32) for _ in range(2))
    wide = jnp.asarray(rng.normal(size=(2, 3, 6)), jnp.float32)
    turn = MixtureOfFeatures([4, 6], 5, rngs=nnx.Rngs(0))
    assert turn(clip, wide).shape == (2, 6, 5)
    np.testing.assert_allclose(turn(clip, wide)[:, 3], turn.maps[1](wide[:, 1]), rtol=1e-5, atol=1e-6)
    added = MixtureOfFeatures([4, 4], 5, mode="additive", alpha=0.25, rngs=nnx.Rngs(0))
    assert len(added.maps) == 1
    np.testing.assert_allclose(added(clip, dino), added.maps[0](0.25 * dino + 0.75 * clip), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="two towers of one width"):
        MixtureOfFeatures([4, 6], 5, mode="additive", rngs=nnx.Rngs(0))

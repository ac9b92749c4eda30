"""Every loss against a naive loop over the batch, its invariances, and extreme inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from bigcl.losses import infonce, l2_normalize, sigmoid, streaming
from bigcl.losses.telemetry import ROWS


def naive_infonce(za, zb, scale, bias, direction="both", label_smoothing=0.0):
    """Cross-entropy with explicit targets, row by row."""
    del bias
    logits = scale * jnp.array([[a @ b for b in zb] for a in za])
    n = len(za)
    terms = []
    for matrix in (logits, logits.T):
        rows = []
        for i in range(n):
            target = jnp.full(n, label_smoothing / n).at[i].add(1 - label_smoothing)
            rows.append(-(target * jnp.log(jnp.exp(matrix[i]) / jnp.exp(matrix[i]).sum())).sum())
        terms.append(sum(rows) / n)
    return {"both": (terms[0] + terms[1]) / 2, "a_to_b": terms[0], "b_to_a": terms[1]}[direction]


def naive_sigmoid(za, zb, scale, bias):
    """One binary decision after the other."""
    n, total = len(za), jnp.zeros(())
    for i in range(n):
        for j in range(n):
            sign = 1.0 if i == j else -1.0
            total -= jnp.log(1 / (1 + jnp.exp(-sign * (scale * (za[i] @ zb[j]) + bias))))
    return total / n


def no_bias(loss):
    """A loss that takes no bias, with the common signature."""
    return lambda za, zb, scale, bias, **options: loss(za, zb, scale, **options)


LOSSES = {"infonce": (no_bias(infonce), naive_infonce), "sigmoid": (sigmoid, naive_sigmoid)}
OPTIONS = [
    ("infonce", {"direction": d, "label_smoothing": e}) for d in ("both", "a_to_b", "b_to_a") for e in (0.0, 0.1, 1.0)
]
OPTIONS.append(("sigmoid", {}))
ALL = pytest.mark.parametrize(("name", "options"), OPTIONS, ids=str)
KINDS = pytest.mark.parametrize("name", LOSSES)


def inputs(b, d, seed=0, dtype=np.float64, scale=5.0, bias=-2.0):
    """Unit rows, scale and bias."""
    za, zb = np.random.default_rng(seed).normal(size=(2, b, d))
    za, zb = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (za, zb))
    return tuple(jnp.asarray(x, dtype) for x in (za, zb, scale, bias))


def value_and_grads(loss, arguments, **options):
    return jax.jit(jax.value_and_grad(lambda *a: loss(*a, **options), argnums=(0, 1, 2, 3)))(*arguments)


@ALL
@pytest.mark.parametrize("shape", [(1, 3), (2, 1), (6, 4)])
def test_value_and_gradients_are_those_of_the_naive_loss(name, options, shape):
    loss, naive = LOSSES[name]
    with jax.enable_x64(True):
        arguments = inputs(*shape)
        got, expected = (value_and_grads(f, arguments, **options) for f in (loss, naive))
        assert got[0].dtype == jnp.float64
        jax.tree.map(lambda g, e: np.testing.assert_allclose(g, e, rtol=1e-10, atol=1e-12), got, expected)


@ALL
def test_rows_are_the_terms_of_the_mean(name, options):
    loss, naive = LOSSES[name]
    rows = ROWS[{"infonce": infonce, "sigmoid": sigmoid}[name]]
    rows = no_bias(rows) if name == "infonce" else rows
    with jax.enable_x64(True):
        za, zb, scale, bias = inputs(6, 4)
        terms = rows(za, zb, scale, bias, **options)
        np.testing.assert_allclose(terms.mean(), naive(za, zb, scale, bias, **options), rtol=1e-10)
        got = value_and_grads(lambda *a, **o: rows(*a, **o).mean(), (za, zb, scale, bias), **options)
        expected = value_and_grads(loss, (za, zb, scale, bias), **options)
        jax.tree.map(lambda g, e: np.testing.assert_allclose(g, e, rtol=1e-10, atol=1e-12), got, expected)
        x = np.asarray(scale * za @ zb.T + (bias if name == "sigmoid" else 0))
        if name == "sigmoid":
            own = np.log1p(np.exp(-np.diag(x)))
            off = np.log1p(np.exp(x)) * (1 - np.eye(6))
            np.testing.assert_allclose(terms, own + (off.sum(0) + off.sum(1)) / 2, rtol=1e-10)
        elif options == {"direction": "a_to_b", "label_smoothing": 0.0}:
            np.testing.assert_allclose(terms, np.log(np.exp(x).sum(1)) - np.diag(x), rtol=1e-10)


@ALL
def test_float32_follows_float64(name, options):
    loss, _ = LOSSES[name]
    got = value_and_grads(loss, inputs(16, 8, dtype=np.float32, scale=20.0), **options)
    with jax.enable_x64(True):
        expected = value_and_grads(loss, inputs(16, 8, scale=20.0), **options)
        jax.tree.map(lambda g, e: np.testing.assert_allclose(g, e, rtol=2e-5, atol=2e-6), got, jax.device_get(expected))


@ALL
def test_order_of_the_rows_does_not_matter(name, options):
    loss, _ = LOSSES[name]
    order = np.random.default_rng(1).permutation(12)
    with jax.enable_x64(True):
        za, zb, scale, bias = inputs(12, 5)
        value, (da, db, *rest) = value_and_grads(loss, (za, zb, scale, bias), **options)
        again, (da_p, db_p, *rest_p) = value_and_grads(loss, (za[order], zb[order], scale, bias), **options)
        mixed, _ = value_and_grads(loss, (za[order], zb, scale, bias), **options)
        for got, expected in zip((again, da_p, db_p, *rest_p), (value, da[order], db[order], *rest), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-13)
        if options.get("label_smoothing") != 1.0:  # targets that are all alike hold no pairs
            assert abs(float(mixed - value)) > 1e-3


@pytest.mark.parametrize("temperature", [1e-3, 1e-2, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("case", ["random", "identical", "opposite", "zero"])
@KINDS
def test_finite_for_extreme_temperatures_and_inputs(name, case, temperature):
    loss, _ = LOSSES[name]
    za, zb, *_ = inputs(8, 4, dtype=np.float32)
    za, zb = {
        "random": (za, zb),
        "identical": (jnp.repeat(za[:1], 8, 0),) * 2,
        "opposite": (za, -za),
        "zero": (jnp.zeros_like(za),) * 2,
    }[case]
    found = value_and_grads(loss, (za, zb, jnp.float32(1 / temperature), jnp.float32(-10.0)))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
    if case in ("identical", "zero") and name == "infonce":
        np.testing.assert_allclose(found[0], np.log(8), rtol=2e-4)


@KINDS
def test_half_precision_embeddings_give_float32_logits(name):
    loss, _ = LOSSES[name]
    za, zb, scale, bias = inputs(8, 16, dtype=np.float32)
    za, zb = za.astype(jnp.bfloat16), zb.astype(jnp.bfloat16)
    assert streaming.logits(za, zb, scale).dtype == jnp.float32
    value, grads = value_and_grads(loss, (za, zb, scale, bias))
    exact, exact_grads = value_and_grads(loss, (za.astype(jnp.float32), zb.astype(jnp.float32), scale, bias))
    assert value.dtype == jnp.float32 and [g.dtype for g in grads] == [jnp.bfloat16] * 2 + [jnp.float32] * 2
    np.testing.assert_allclose(value, exact, rtol=1e-5)  # products of bfloat16 numbers are exact in float32
    for got, expected in zip(grads[:2], exact_grads[:2], strict=True):
        np.testing.assert_allclose(got.astype(jnp.float32), expected, atol=0.01 * float(jnp.abs(expected).max()))
    for got, expected in zip(grads[2:], exact_grads[2:], strict=True):  # of no rounded derivatives
        np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize(("size", "rows", "largest"), [(1e-8, 4096, 1.0), (1e5, 1, 0.01)])
def test_derivatives_by_the_logits_may_leave_the_range_of_float16(size, rows, largest):
    """float16 would make them zero or infinite, where the gradient that they sum to is a float16 number."""
    za, zb = jnp.asarray(np.random.default_rng(0).uniform(0, largest, (2, rows, 8)), jnp.float16)
    d_logits = jnp.full((rows, rows), size, jnp.float32)
    got = jax.vjp(streaming.dots, za, zb)[1](d_logits)
    for gradient, other in zip(got, (zb, za), strict=True):
        expected = np.broadcast_to(size * np.asarray(other, np.float64).sum(0), gradient.shape)
        assert gradient.dtype == jnp.float16
        np.testing.assert_allclose(np.asarray(gradient, np.float64), expected, rtol=5e-3)


def test_derivatives_by_the_logits_are_rounded_once_to_bfloat16():
    za, zb = (z.astype(jnp.bfloat16) for z in inputs(8, 16, dtype=np.float32)[:2])
    d_logits = jnp.asarray(np.random.default_rng(1).normal(size=(8, 8)), jnp.float32)
    rounded = np.asarray(d_logits.astype(jnp.bfloat16), np.float64)
    for gradient, expected in zip(
        jax.vjp(streaming.dots, za, zb)[1](d_logits),
        (rounded @ np.asarray(zb, np.float64), rounded.T @ np.asarray(za, np.float64)),
        strict=True,
    ):
        assert gradient.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(gradient, np.float64), expected, rtol=2**-8, atol=1e-6)


@KINDS
def test_sides_of_different_length_are_an_error(name):
    loss, _ = LOSSES[name]
    za, zb, scale, bias = inputs(4, 3, dtype=np.float32)
    with pytest.raises(TypeCheckError, match="zb"):
        loss(za, zb[:3], scale, bias)


@KINDS
def test_shapes_are_checked_while_tests_run(name):
    """That is, the import hook of conftest.py is at work."""
    loss, _ = LOSSES[name]
    za, zb, scale, bias = inputs(4, 3, dtype=np.float32)
    with pytest.raises(TypeCheckError, match="scale"):
        loss(za, zb, scale[None], bias)


def test_l2_normalize():
    x = jnp.array([[3.0, 4.0], [0.0, 0.0], [1e-8, 0.0]])
    np.testing.assert_allclose(l2_normalize(x), [[0.6, 0.8], [0.0, 0.0], [1.0, 0.0]], rtol=1e-6)
    assert np.isfinite(jax.grad(lambda x: l2_normalize(x)[:, 0].sum())(x)).all()
    assert l2_normalize(x.astype(jnp.bfloat16)).dtype == jnp.float32

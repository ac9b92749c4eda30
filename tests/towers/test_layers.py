"""Parts of the transformer against their plain definitions, value and gradient."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bigcl.towers import layers
from bigcl.towers.layers import ACTIVATIONS, AttentionalPooler, AttentionPool, Stack, attention_weights, cast_here

B, N, W, HEADS = 3, 7, 16, 4


def random(seed, *shape, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def plain_weights(q, k, mask):
    scores = jnp.einsum("bhnd,bhmd->bhnm", q, k) * q.shape[-1] ** -0.5
    return jax.nn.softmax(scores if mask is None else jnp.where(mask, scores, jnp.finfo(jnp.float32).min))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gelu_is_exact_to_rounding(dtype):
    x = jnp.linspace(-8, 8, 4001).astype(dtype)
    at = [float(v) for v in x]
    gelu = np.array([v * math.erfc(-v / math.sqrt(2)) / 2 for v in at])
    slope = np.array([math.erfc(-v / math.sqrt(2)) / 2 + v * math.exp(-v * v / 2) / math.sqrt(2 * math.pi) for v in at])
    got, got_slope = ACTIVATIONS["gelu"](x), jax.vmap(jax.grad(ACTIVATIONS["gelu"]))(x)
    assert got.dtype == dtype
    unit = float(jnp.finfo(dtype).eps)
    np.testing.assert_array_less(np.abs(np.asarray(got, np.float64) - gelu), 2 * unit * np.maximum(np.abs(at), 1e-3))
    np.testing.assert_allclose(np.asarray(got_slope, np.float64), slope, atol=4 * unit)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_weights_and_their_gradient(masked):
    q, k, pull = random(0, B, HEADS, N, 4), random(1, B, HEADS, 5, 4), random(2, B, HEADS, N, 5)
    mask = None
    if masked:  # one query sees nothing
        mask = jnp.asarray(np.random.default_rng(3).random((B, 1, N, 5)) < 0.6).at[0, 0, 0].set(False)

    def scalar(function, q, k):
        return (function(q, k, mask) * pull).sum()

    np.testing.assert_allclose(attention_weights(q, k, mask), plain_weights(q, k, mask), rtol=1e-6, atol=1e-7)
    for got, expected in zip(
        jax.grad(lambda q, k: scalar(attention_weights, q, k), (0, 1))(q, k),
        jax.grad(lambda q, k: scalar(plain_weights, q, k), (0, 1))(q, k),
        strict=True,
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_attention_weights_in_bfloat16_are_those_of_float32_rounded():
    q, k = random(0, B, HEADS, N, 4, dtype=jnp.bfloat16), random(1, B, HEADS, N, 4, dtype=jnp.bfloat16)
    got = attention_weights(q, k, None)
    assert got.dtype == jnp.bfloat16
    expected = plain_weights(q.astype(jnp.float32), k.astype(jnp.float32), None)
    np.testing.assert_allclose(got.astype(jnp.float32), expected, rtol=2**-8)


@pytest.mark.parametrize("masked", [None, "keys", "causal"])
@pytest.mark.parametrize(("n", "m"), [(6, 8), (7, 7), (7, 5)])
def test_what_cudnn_is_asked_for_is_attention(monkeypatch, n, m, masked):
    """Its own kernels run on GPUs alone; JAX's reference of the same call stands in for them."""
    calls = []
    reference = jax.nn.dot_product_attention

    def stand_in(q, k, v, *, mask, key_value_seq_lengths, implementation):
        calls.append((q.shape[1] % 2, k.shape[1] % 2, implementation))
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return reference(q, k, v, mask=mask, key_value_seq_lengths=key_value_seq_lengths, implementation="xla")

    monkeypatch.setattr(layers, "on_gpu", lambda: True)
    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    q, k, v = (random(i, B, size, HEADS, 8, dtype=jnp.float16) for i, size in enumerate((n, m, m)))
    pull = random(3, B, n, HEADS, 8)
    masks = {
        "keys": (jnp.arange(m)[None] < jnp.array([m, 3, 1])[:, None])[:, None, None],
        "causal": jnp.tril(jnp.ones((n, m), bool))[None, None],
    }

    def run(attend):
        def value(*qkv):
            y = attend(*qkv, masks.get(masked))
            return (y.astype(jnp.float32) * pull).sum(), y

        (_, y), gradients = jax.value_and_grad(value, (0, 1, 2), has_aux=True)(q, k, v)
        return y, *gradients

    for got, expected in zip(run(layers.attend_cudnn), run(layers.attend), strict=True):
        assert got.dtype == jnp.float16 and got.shape == expected.shape
        np.testing.assert_allclose(got.astype(jnp.float32), expected.astype(jnp.float32), atol=0.02)
    assert calls == [(0, 0, "cudnn")]


def test_without_a_gpu_or_in_float32_attention_is_plain(monkeypatch):
    monkeypatch.setattr(jax.nn, "dot_product_attention", None)
    half, full = (random(0, B, N, HEADS, 8, dtype=dtype) for dtype in (jnp.bfloat16, jnp.float32))
    np.testing.assert_array_equal(layers.attend_cudnn(half, half, half, None), layers.attend(half, half, half, None))
    monkeypatch.setattr(layers, "on_gpu", lambda: True)
    np.testing.assert_array_equal(layers.attend_cudnn(full, full, full, None), layers.attend(full, full, full, None))


@pytest.mark.parametrize("masked", [False, True])
def test_pooling_without_keys_and_values_is_attention_with_them(masked):
    graphdef, params = nnx.split(
        AttentionPool(W, HEADS, 24, activation="gelu", norm_eps=1e-6, dtype=jnp.float32, rngs=nnx.Rngs(0))
    )
    params = jax.tree.map(lambda p: p + 0.3 * random(p.size, *p.shape), params)  # biases too
    x = random(1, B, N, W)
    mask = jnp.arange(N)[None] < jnp.array([7, 5, 1])[:, None] if masked else None

    def with_keys_and_values(pool, x):
        probe = jnp.broadcast_to(pool.probe[...], (B, 1, W))
        y = pool.attention(probe, x, mask=None if mask is None else mask[:, None, None])
        return (y + pool.mlp(pool.norm(y)))[:, 0]

    def run(function):
        value, pull = jax.vjp(lambda params, x: function(nnx.merge(graphdef, params), x), params, x)
        return value, *pull(random(2, B, W))

    for got, expected in zip(
        jax.tree.leaves(run(lambda pool, x: pool(x, mask))), jax.tree.leaves(run(with_keys_and_values)), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_the_attentional_pooler_is_cross_attention_between_norms(masked):
    """Head by head, with keys and values."""
    out, heads = 24, 8
    graphdef, params = nnx.split(AttentionalPooler(W, out, norm_eps=1e-5, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    params = jax.tree.map(lambda p: p + 0.3 * random(p.size, *p.shape), params)
    x = random(1, B, N, W)
    real = jnp.arange(N)[None] < jnp.array([7, 5, 1])[:, None] if masked else jnp.ones((B, N), bool)

    def plain(pool, x):
        probe = pool.probe[0]
        centred = (probe - probe.mean()) / jnp.sqrt(probe.var() + 1e-5)
        query = (centred * pool.q_norm.scale[...] + pool.q_norm.bias[...]) @ pool.q.kernel[...] + pool.bias[0]
        k = jnp.einsum("bnw,wd->bnd", x, pool.k.kernel[...]) + pool.bias[1][None, None]
        v = jnp.einsum("bnw,wd->bnd", x, pool.v.kernel[...]) + pool.bias[2][None, None]
        taken = []
        for head in jnp.split(jnp.arange(out), heads):
            scores = jnp.einsum("d,bnd->bn", query[head], k[:, :, head]) / math.sqrt(out // heads)
            weights = jax.nn.softmax(scores, where=real)
            taken.append(jnp.einsum("bn,bnd->bd", weights, v[:, :, head]))
        y = jnp.concatenate(taken, 1) @ pool.out.kernel[...] + pool.out.bias[...][None]
        y = (y - y.mean(1, keepdims=True)) / jnp.sqrt(y.var(1, keepdims=True) + 1e-5)
        return y * pool.norm.scale[...][None] + pool.norm.bias[...][None]

    def run(function):
        value, pull = jax.vjp(lambda params, x: function(nnx.merge(graphdef, params), x), params, x)
        return value, *pull(random(2, B, out))

    for got, expected in zip(
        jax.tree.leaves(run(lambda pool, x: pool(x, real if masked else None))),
        jax.tree.leaves(run(plain)),
        strict=True,
    ):
        np.testing.assert_allclose(got, expected, rtol=2e-4, atol=5e-5)


def test_cast_here_is_the_identity_with_its_gradient():
    x = random(0, 3, 4)
    np.testing.assert_array_equal(cast_here(x), x)
    np.testing.assert_array_equal(jax.grad(lambda x: (cast_here(x) * x).sum())(x), 2 * x)


def test_weights_of_a_bfloat16_stack_are_cast_layer_by_layer():
    """The whole stack in bfloat16 would be an array of its own, held through forward and backward pass."""
    depth = 3
    arguments = {"activation": "gelu", "gated": False, "qk_norm": False, "norm_eps": 1e-6, "dropout": 0.0}
    stack = nnx.eval_shape(
        lambda: Stack(depth, W, HEADS, 24, **arguments, dtype=jnp.bfloat16, remat="nothing_saveable", rngs=nnx.Rngs(0))
    )
    graphdef, params = nnx.split(stack)
    x = jax.ShapeDtypeStruct((B, N, W), jnp.bfloat16)
    text = jax.jit(lambda p, x: nnx.merge(graphdef, p)(x)).lower(params, x).as_text()
    assert "optimization_barrier" in text
    assert f"tensor<{depth}x{W}x24xbf16>" not in text and f"tensor<{W}x24xbf16>" in text

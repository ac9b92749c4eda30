"""Products in eight bits against exact ones, alone and in a step of training."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bigcl import flops
from bigcl.mesh import make_mesh
from bigcl.towers import layers
from bigcl.towers.matmul import dense, dot_general, eight_bit_dense
from tests import problems
from tests.problems import TRANSFORMERS

ERROR = {"int8": 0.015, "fp8": 0.05}
"""Of a product, relative to its root mean square; fp8 has three bits after the first one, its gradients two."""


def random(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def distance(got, expected):
    return float(jnp.linalg.norm(got - expected) / jnp.linalg.norm(expected))


@pytest.mark.parametrize("matmul", ERROR)
@pytest.mark.parametrize(("shape", "axes"), [((96, 3, 4, 16), 1), ((4, 24, 80), 2)])
def test_products_and_gradients_are_near_the_exact_ones(matmul, shape, axes):
    pytest.importorskip("qwix")
    kernel = random(1, *shape)
    x = random(0, 5, 7, *shape[:axes]) * jnp.logspace(-4, 4, 5).reshape(5, *[1] * (axes + 1))  # rows of any size
    pull = random(2, 5, 7, *shape[axes:])
    (value, back), (exact, exact_back) = (
        jax.vjp(lambda x, k, d=d: dense(d, x, k, axes), x, kernel) for d in (dot_general(matmul), jax.lax.dot_general)
    )
    for got, expected in zip(value, exact, strict=True):
        assert 0 < distance(got, expected) < ERROR[matmul]
    d_x, d_kernel = back(pull)
    expected_x, expected_kernel = exact_back(pull)
    assert 0 < distance(d_x, expected_x) < ERROR[matmul] * (1 if matmul == "int8" else 1.6)
    assert distance(d_kernel, expected_kernel) < 1e-6


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("shape", "axes"), [((96, 3, 4, 16), 1), ((4, 24, 80), 2), ((4, 24, 7, 3), 2), ((8, 6), 1)])
def test_the_plain_product_is_that_of_jax(shape, axes, dtype):
    x, kernel = random(0, 5, 7, *shape[:axes]).astype(dtype), random(1, *shape).astype(dtype)
    pull = random(2, 5, 7, *shape[axes:]).astype(dtype)
    (value, back), (exact, exact_back) = (
        jax.vjp(lambda x, k, d=d: dense(d, x, k, axes), x, kernel) for d in (dot_general("plain"), jax.lax.dot_general)
    )
    for got, expected in zip((value, *back(pull)), (exact, *exact_back(pull)), strict=True):
        assert got.dtype == expected.dtype == dtype and got.shape == expected.shape
        assert distance(*(z.astype(jnp.float32) for z in (got, expected))) < (1e-6 if dtype == jnp.float32 else 0.01)


@pytest.mark.parametrize("matmul", ["plain", "int8"])
def test_what_towers_keep_for_the_gradient_are_the_products_with_weights(matmul):
    """None of them is computed again, as none is where everything is kept."""
    if matmul != "plain":
        pytest.importorskip("qwix")
    found = {}
    for remat in ("none", layers.REMAT, "nothing_saveable"):
        stack = layers.Stack(
            2, 16, 2, 32, activation="gelu", gated=False, qk_norm=False, norm_eps=1e-6, dropout=0.0,
            matmul=matmul, dtype=jnp.float32, remat=remat, rngs=nnx.Rngs(0),
        )  # fmt: skip
        graphdef, params = nnx.split(stack)
        program = jax.make_jaxpr(jax.grad(lambda p, x, g=graphdef: jnp.sum(nnx.merge(g, p)(x) ** 2), (0, 1)))(
            params, random(0, 3, 5, 16)
        )
        products = [p for p in flops.products(program.jaxpr) if not any(p.equation.params["dimension_numbers"][1])]
        found[remat] = sum(p.flops for p in products)
    assert found["none"] == found[layers.REMAT] < found["nothing_saveable"]


def test_the_products_are_those_of_integers():
    pytest.importorskip("qwix")
    bits = (jnp.int8, jnp.int8)
    text = str(jax.make_jaxpr(lambda x, k: eight_bit_dense(1, bits, x, k))(random(0, 4, 8), random(1, 8, 6)))
    assert "i8[4,8]" in text and "i32[4,6] = dot_general" in text


@functools.cache
def trained(matmul):
    """Twelve steps on one batch, on eight devices, heads and hidden units sharded."""
    towers = {k: {**v, "matmul": matmul, "dropout": 0.0} for k, v in TRANSFORMERS["towers"].items()}
    batch = next(problems.batches(1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(problems, "batches", lambda steps: iter([batch] * steps))
        problem = problems.Problem({**TRANSFORMERS, "towers": towers})
        return problem.train(12, make_mesh(fsdp=2, tensor=2))


@pytest.mark.parametrize("matmul", ERROR)
def test_training_follows_that_in_float32(matmul):
    """The loss goes down as it does there; the masters stay float32, under the same names."""
    pytest.importorskip("qwix")
    (state, metrics), (exact_state, exact) = trained(matmul), trained("plain")
    assert {k: (v.shape, v.dtype) for k, v in state.params.items()} == {
        k: (v.shape, v.dtype) for k, v in exact_state.params.items()
    }
    assert all(v.dtype == jnp.float32 for v in state.params.values())
    losses, exact_losses = (np.array([m["loss"] for m in ms]) for ms in (metrics, exact))
    assert (losses != exact_losses).all() and losses[-1] < 0.8 * losses[0]
    np.testing.assert_allclose(losses[0], exact_losses[0], rtol=ERROR[matmul])
    np.testing.assert_allclose(losses[0] - losses[-1], exact_losses[0] - exact_losses[-1], rtol=0.2)


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "qwix", None)
    dot_general.cache_clear()
    with pytest.raises(ImportError, match=r'matmul="int8" needs qwix: pip install "bigcl\[quantized\]"'):
        dot_general("int8")

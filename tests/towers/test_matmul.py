"""Products in eight bits against exact ones, alone and in a step of training."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigcl.mesh import make_mesh
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

"""Counted FLOPs against the counts that one makes by hand."""

import jax
import jax.numpy as jnp
import pytest

from bigcl.flops import count
from tests.problems import TRANSFORMERS, Problem, batches


def counted(function, *shapes):
    """Operations of a function of float32 arrays of these shapes."""
    arguments = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
    return count(jax.make_jaxpr(function)(*arguments).jaxpr)


def test_a_matrix_product_is_two_for_each_multiply_add():
    assert counted(lambda a, b: a @ b, (3, 5), (5, 7)) == 2 * 3 * 5 * 7
    assert counted(lambda a, b: jnp.einsum("bij,bkj->bik", a, b), (4, 3, 5), (4, 7, 5)) == 2 * 4 * 3 * 7 * 5


def test_a_loop_counts_every_turn_and_a_jitted_part_counts_too():
    inner = jax.jit(lambda a: a @ a)
    assert counted(lambda a: jax.lax.scan(lambda c, _: (inner(c), None), a, length=6)[0], (4, 4)) == 6 * 2 * 64


def test_the_gradient_of_a_product_is_two_products():
    assert counted(jax.grad(lambda a, b: (a @ b).sum(), argnums=(0, 1)), (3, 5), (5, 7)) == 3 * 2 * 3 * 5 * 7


def test_a_convolution():
    def convolve(x, k):
        return jax.lax.conv_general_dilated(x, k, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    assert counted(convolve, (2, 6, 6, 3), (3, 3, 3, 8)) == 2 * (2 * 4 * 4 * 8) * (3 * 3 * 3)


@pytest.mark.parametrize("scan", [True, False])
def test_scanned_towers_count_as_much_as_unrolled_ones(scan):
    towers = {k: {**v, "remat": "none", "scan": scan} for k, v in TRANSFORMERS["towers"].items()}
    problem = Problem({**TRANSFORMERS, "towers": towers})
    batch = problem.batch(next(batches(1)))

    def loss(params, batch):
        return problem.skeleton.merge(params, {}).loss(batch, None)[0]

    params = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in problem.shapes.items()}
    width, depth, mlp, dim = 32, 2, 64, 16
    tokens = {"image": 16, "text": 6}
    dense = sum(depth * n * (4 * width * width + 2 * width * mlp + 2 * n * width) for n in tokens.values())
    heads = 2
    pool = 2 * 16 * heads * width + 2 * width * width + 2 * width * mlp
    query = 2 * width * width  # once for all images
    ends = 16 * (4 * 4 * 3) * width + 2 * width * dim + pool
    pairs = 2 * 16 * 16 * dim  # the logits of two losses
    assert count(jax.make_jaxpr(loss)(params, batch).jaxpr) == 2 * (16 * (dense + ends) + pairs + query)

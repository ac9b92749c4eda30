"""Counted FLOPs against the counts that one makes by hand."""

import runpy

import jax
import jax.numpy as jnp
import pytest

from bigcl.config import plain
from bigcl.experiment import Experiment
from bigcl.flops import count, model_flops
from bigcl.losses import infonce
from bigcl.planning.advice import with_changes
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


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 4])
def test_gradients_of_a_strided_convolution_are_as_much_as_it_each(stride, groups):
    def convolve(x, k):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, k, (stride, stride), "VALID", dimension_numbers=numbers, feature_group_count=groups
        ).sum()

    shapes = (2, 12, 10, 4), (3, 3, 4 // groups, 8)
    rows, columns = (12 - 3) // stride + 1, (10 - 3) // stride + 1
    once = 2 * (2 * rows * columns * 8) * (3 * 3 * 4 // groups)
    assert counted(convolve, *shapes) == once
    assert counted(jax.grad(convolve, argnums=1), *shapes) == 2 * once
    assert counted(jax.grad(convolve, argnums=(0, 1)), *shapes) == 3 * once


def test_streamed_sums_count_without_what_the_gradient_computes_anew():
    z = jax.ShapeDtypeStruct((48, 20), jnp.float32)
    product = 2 * 48 * 48 * 20

    assert counted(loss_of(infonce), (48, 20), (48, 20)) == product
    assert counted(jax.grad(loss_of(infonce), argnums=(0, 1)), (48, 20), (48, 20)) == 4 * product  # what runs
    assert model_flops(lambda sides: infonce(*sides, jnp.float32(3)), (z, z)) == 3 * product

    def with_teacher(sides, teacher):
        return infonce(*sides, jnp.float32(3)) + jax.lax.stop_gradient(infonce(*teacher, jnp.float32(3)))

    assert model_flops(with_teacher, (z, z), (z, z)) == 3 * product + product


def loss_of(function):
    """A loss at a fixed scale."""
    return lambda za, zb: function(za, zb, jnp.float32(3))


def test_a_step_needs_six_operations_for_each_parameter_and_token_and_attention():
    batch, width, depth, dim = 2048, 384, 12, 384
    tower = {"width": width, "depth": depth, "heads": 6}
    config = plain(runpy.run_path("configs/siglip.py")["get_config"]("smoke"))
    config = Experiment.resolve(with_changes(config, [("train.batch", batch), ("mesh.fsdp", 8)]))
    for name, own in (("image", {"image_size": 224}), ("text", {"embed_dim": dim})):
        config["task"]["towers"][name] |= {**tower, **own, "mlp_width": 4 * width}
    layer = 4 * width**2 + 2 * width * 4 * width
    image = 6 * 196 * (depth * layer + 16 * 16 * 3 * width) + depth * 12 * 196**2 * width
    text = 6 * 64 * depth * layer + depth * 12 * 64**2 * width
    pool = 6 * layer  # one query, whose products with all tokens are few
    pairs = 6 * batch**2 * dim
    counted = Experiment(**config, devices=jax.devices()).flops_per_step()
    assert counted == pytest.approx(batch * (image + text + pool) + pairs, rel=0.01)


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

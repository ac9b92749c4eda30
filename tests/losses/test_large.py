"""A million pairs: nothing overflows an integer, down to the telemetry of a step; traced, not run."""

import jax
import jax.numpy as jnp
import pytest

from bigcl.config import plain
from bigcl.experiment import Experiment
from bigcl.losses.dcl import dcl
from bigcl.losses.infonce import infonce
from bigcl.losses.sigmoid import sigmoid
from bigcl.losses.uniformity import uniformity
from configs import clip, siglip

PAIRS = 2**20


@pytest.mark.parametrize("recipe", [clip, siglip])
def test_a_step_of_a_million_pairs(recipe):
    config = plain(recipe.get_config("smoke"))
    config["train"]["batch"] = PAIRS
    experiment = Experiment(**config, devices=jax.devices()[:1])
    state, metrics = jax.eval_shape(experiment.step(), experiment.state_shapes, experiment.batch_shapes())
    assert state.step.shape == metrics["loss"].shape == metrics["image_text/negative_similarity"].shape == ()


@pytest.mark.parametrize(
    "loss",
    [
        lambda a, b: infonce(a, b, jnp.float32(10)),
        lambda a, b: sigmoid(a, b, jnp.float32(10), jnp.float32(-10)),
        lambda a, b: dcl(a, b, jnp.float32(10)),
        lambda a, b: uniformity(a) + uniformity(b),
    ],
)
def test_a_loss_of_a_million_pairs(loss):
    rows = jax.ShapeDtypeStruct((PAIRS, 16), jnp.float32)
    value, gradients = jax.eval_shape(jax.value_and_grad(loss, (0, 1)), rows, rows)
    assert value.shape == () and {g.shape for g in gradients} == {rows.shape}

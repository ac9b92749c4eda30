"""What tasks keep between steps: queues, against lists of past rows, on one device and eight, and after a resume."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from bigcl import registry
from bigcl.checkpoint import Checkpoints
from bigcl.experiment import Experiment
from bigcl.mesh import make_mesh
from bigcl.registry import ConfigError
from bigcl.state import Skeleton
from tests.problems import BATCH, Problem, assert_close, batches

SIZE, STEPS = 40, 4  # a queue of two batches and a half
MOCO = {
    "kind": "two_tower",
    "towers": {"a": {"kind": "mlp", "inputs": 6, "widths": [5]}, "b": {"kind": "mlp", "inputs": 3, "widths": [5]}},
    "teacher": {"decay": 0.9},
    "queues": {"past": {"of": ["teacher/b"], "size": SIZE, "width": 5}},
    "losses": [
        {
            "kind": "infonce",
            "of": ["a", "teacher/b"],
            "with": {"negatives_b": "past/teacher/b"},
            "direction": "a_to_b",
            "scale": 4.0,
        }
    ],
}
QUEUE, TEACHER = "queues/past/rows/teacher/b", ("teacher/towers/b/layers/0/kernel", "teacher/towers/b/layers/0/bias")


@pytest.fixture(scope="module")
def problem():
    return Problem(MOCO, ema=None, lr=0.1)


def unit(x):
    return x / jnp.sqrt((x**2).sum(1, keepdims=True))


def naive(problem, steps):
    """Losses and the queue of each step, with a list of rows and everything written out."""
    state = problem.new()
    past, teacher = list(np.asarray(state.extra[QUEUE])), [state.extra[k] for k in TEACHER]
    params, tx = state.params, problem.tx
    moments, losses, queues = tx.init(params), [], []

    def loss(params, keys, past, a):
        q = unit(a @ params["towers/a/layers/0/kernel"] + params["towers/a/layers/0/bias"])
        logits = 4.0 * q @ jnp.concatenate([keys, past]).T
        return (jnp.log(jnp.exp(logits).sum(1)) - jnp.diagonal(logits)).mean()

    for batch in batches(steps):
        keys = unit(batch["b"] @ teacher[0] + teacher[1])
        value, grads = jax.value_and_grad(loss)(params, keys, jnp.stack(past), batch["a"])
        losses.append(float(value))
        updates, moments = tx.update(grads, moments, params)
        params = optax.apply_updates(params, updates)
        teacher = [0.9 * t + 0.1 * params[k.removeprefix("teacher/")] for t, k in zip(teacher, TEACHER, strict=True)]
        past = [*np.asarray(keys), *past][:SIZE]
        queues.append(np.stack(past))
    return losses, queues


@pytest.mark.parametrize("mesh", [None, {"data": 4, "fsdp": 2}], ids=["one", "eight"])
def test_a_queue_holds_the_last_rows_first_in_first_out(problem, mesh):
    with jax.numpy_rank_promotion("allow"):
        losses, queues = naive(problem, STEPS)
    state, metrics = problem.train(STEPS, mesh and make_mesh(**mesh))
    np.testing.assert_allclose([m["loss"] for m in metrics], losses, rtol=1e-4)
    assert_close(state.extra[QUEUE], queues[-1])
    assert QUEUE not in state.params and "towers/b/layers/0/kernel" in state.params


def test_a_queue_goes_on_from_a_checkpoint_to_the_bit(problem, tmp_path):
    step, state = jax.jit(problem.step), jax.jit(problem.new)()
    for i, batch in enumerate(batches(STEPS)):
        if i == 2:
            checkpoints = Checkpoints(tmp_path)
            checkpoints.save(2, state)
            checkpoints.close()
        state, _ = step(state, problem.batch(batch))
    resumed = Checkpoints(tmp_path).restore(jax.jit(problem.new)())
    for batch in list(batches(STEPS))[2:]:
        resumed, _ = step(resumed, problem.batch(batch))
    for x, y in zip(jax.tree.leaves(resumed), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_queue_stays_in_an_evaluation_and_in_a_step_that_is_not_taken(problem):
    state = jax.jit(problem.new)()
    (batch,) = batches(1)
    task = Skeleton(problem.build(rngs=nnx.Rngs(0))).merge(state.params, state.extra)
    task.loss(jax.tree.map(jnp.asarray, problem.batch(batch)), None)
    np.testing.assert_array_equal(task.queues["past"].rows["teacher/b"][...], state.extra[QUEUE])
    broken = {**problem.batch(batch), "a": np.full((BATCH, 6), np.nan, np.float32)}
    after, _ = jax.jit(problem.step)(state, broken)
    np.testing.assert_array_equal(after.extra[QUEUE], state.extra[QUEUE])
    np.testing.assert_allclose(jnp.linalg.norm(state.extra[QUEUE], axis=1), 1, rtol=1e-5)


def test_a_queue_is_sharded_like_a_parameter():
    source = {"kind": "synthetic", "spec": {"a": {"shape": [6]}, "b": {"shape": [3]}}}
    config = {"train": {"steps": 1, "batch": 16}, "data": {"source": source}, "mesh": {"data": 2, "fsdp": 4}}
    queues = {"past": {"of": ["teacher/b"], "size": 1024, "width": 5}}
    config |= {"task": {**MOCO, "queues": queues}, "optim": {"lr": 0.1}}
    state = Experiment(**config).init()
    assert state.extra[QUEUE].addressable_shards[0].data.shape == (256, 5)


def test_rows_of_another_width_are_an_error(problem):
    part = {**MOCO, "queues": {"past": {"of": ["teacher/b"], "size": 8, "width": 4}}, "losses": []}
    task = registry.build("task", part, batch_size=BATCH, rngs=nnx.Rngs(0))
    with pytest.raises(ConfigError, match=r"task\.queues: 'teacher/b' has rows of"):
        task.queues["past"].push({"teacher/b": jnp.zeros((BATCH, 5))})

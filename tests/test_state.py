"""The compiled step: what it trains, what it skips, what it keeps."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from bigcl.mesh import AXES, batch_sharding, make_mesh, replicated
from bigcl.state import Skeleton, init_state, make_step
from bigcl.tasks import Task
from tests.problems import MLPS, TRANSFORMERS, Problem, assert_close, batches


def test_skeleton_splits_and_merges():
    problem = Problem(TRANSFORMERS)
    task = jax.jit(lambda: problem.skeleton.split(problem.build(rngs=nnx.Rngs(0))))()
    params, extra = task
    assert params.keys() == problem.shapes.keys() and extra == {}
    assert {"towers/image/stack/blocks/attention/qkv", "towers/text/embed", "log_scale", "bias"} < params.keys()
    again, _ = problem.skeleton.split(problem.skeleton.merge(params, extra))
    assert list(again) == list(params) and all(again[k] is params[k] for k in params)


class Counting(Task):
    """A task that keeps something besides its parameters: how often its loss and its `after_update` ran."""

    def __init__(self):
        self.weight = nnx.Param(jnp.array([2.0, -1.0]))
        self.seen, self.updates = nnx.Variable(jnp.zeros(())), nnx.BatchStat(jnp.zeros(()))

    def forward(self, batch, rng):
        self.seen[...] += 1.0
        return batch["x"] * self.weight[...][None]

    def objective(self, outputs, batch, moment=None):
        return jnp.square(outputs).mean(), {}

    def after_update(self):
        self.updates[...] += 1.0


def test_what_a_task_keeps_goes_from_step_to_step():
    task, tx = Counting(), optax.sgd(0.5)
    skeleton = Skeleton(task)
    state = init_state(task, skeleton, tx, frozenset({"weight"}), ema=False, seed=0)
    assert state.params.keys() == {"weight"} and state.extra.keys() == {"seen", "updates"}
    step = jax.jit(make_step(skeleton, tx, frozenset({"weight"}), None))
    for x in (1.0, 1.0, np.nan, 1.0):
        state, _ = step(state, {"x": jnp.full((4, 2), x)})
    assert (state.step, state.skipped) == (4, 1)
    assert (state.extra["seen"], state.extra["updates"]) == (3, 3)
    np.testing.assert_allclose(state.params["weight"], np.array([2.0, -1.0]) * 0.5**3)


def test_training_lowers_the_loss():
    problem = Problem(MLPS)
    state, step, batch = problem.new(), jax.jit(problem.step), problem.batch(next(batches(1)))
    losses = []
    for _ in range(40):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[0] > 2 and losses[-1] < 0.3 * losses[0]
    norms, counts = {"grad_norm", "param_norm"}, {"skipped_steps", "skipped_in_a_row"}
    telemetry = {k for k in metrics if k.startswith(("a/", "b/", "a_b/"))}
    assert metrics.keys() == {"loss", *norms, "logit_scale", "loss/a_b", *counts, *telemetry} and len(telemetry) == 7


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_step_that_is_not_finite_changes_nothing_but_the_counters(value):
    problem = Problem(MLPS)
    step = jax.jit(problem.step)
    before, _ = step(problem.new(), problem.batch(next(batches(1))))
    bad = problem.batch(next(batches(1, seed=3)))
    bad["a"][2, 1] = value
    after, metrics = step(before, bad)
    kept = lambda s: (s.params, s.extra, s.opt_state, s.ema, s.key)  # noqa: E731
    jax.tree.map(np.testing.assert_array_equal, kept(after), kept(before))
    assert (after.step, after.skipped, after.skipped_in_a_row) == (2, 1, 1)
    assert (metrics["skipped_steps"], metrics["skipped_in_a_row"]) == (1, 1) and not np.isfinite(metrics["loss"])
    after, _ = step(after, bad)
    assert (after.step, after.skipped, after.skipped_in_a_row) == (3, 2, 2)
    good, metrics = step(after, problem.batch(next(batches(1))))
    assert (good.step, good.skipped, good.skipped_in_a_row) == (4, 2, 0) and np.isfinite(metrics["loss"])
    assert not np.array_equal(good.params["towers/a/layers/0/kernel"], after.params["towers/a/layers/0/kernel"])


def test_a_gradient_that_is_not_finite_is_skipped_too():
    class Root(Counting):
        def objective(self, outputs, batch, moment=None):
            return jnp.sqrt(jnp.abs(outputs)).mean(), {}

    task, tx = Root(), optax.sgd(0.5)
    skeleton = Skeleton(task)
    state = init_state(task, skeleton, tx, frozenset({"weight"}), ema=False, seed=0)
    after, metrics = jax.jit(make_step(skeleton, tx, frozenset({"weight"}), None))(state, {"x": jnp.zeros((4, 2))})
    assert np.isfinite(metrics["loss"]) and not np.isfinite(metrics["grad_norm"]) and after.skipped == 1
    np.testing.assert_array_equal(after.params["weight"], state.params["weight"])


def test_frozen_parameters_stay_and_have_no_optimizer_state():
    problem = Problem(MLPS, frozen=("towers/a/", "log_scale"))
    before = problem.new()
    after, _ = problem.train(2)
    changed = {k for k in before.params if not np.array_equal(before.params[k], after.params[k])}
    assert changed == problem.trainable == {"towers/b/layers/0/kernel", "towers/b/layers/0/bias"}
    held = {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(after.opt_state)}
    assert held == after.ema.keys() == problem.trainable


def test_moving_average():
    problem = Problem(MLPS, ema=0.75)
    state, step = problem.new(), jax.jit(problem.step)
    expected = jax.device_get(state.params)
    for batch in batches(3):
        state, _ = step(state, problem.batch(batch))
        expected = {k: 0.75 * v + 0.25 * np.asarray(state.params[k]) for k, v in expected.items()}
    assert_close(state.ema, expected, 1e-6)
    assert not np.array_equal(state.ema["towers/a/layers/0/kernel"], state.params["towers/a/layers/0/kernel"])
    assert Problem(MLPS, ema=None).train(1)[0].ema is None


def test_one_step_is_the_optimizer_on_the_gradient_of_the_loss():
    problem = Problem(MLPS, ema=None)
    state, batch = problem.new(), problem.batch(next(batches(1)))

    def loss(params, batch):
        return problem.skeleton.merge(params, {}).loss(batch, None)[0]

    value, grads = jax.jit(jax.value_and_grad(loss))(state.params, batch)
    updates, _ = problem.tx.update(grads, state.opt_state, state.params)
    after, metrics = jax.jit(problem.step)(state, batch)
    assert_close(after.params, optax.apply_updates(state.params, updates))
    assert_close((metrics["loss"], metrics["grad_norm"]), (value, optax.tree.norm(grads)))


def test_each_step_has_its_own_randomness():
    class Noise(Counting):
        def forward(self, batch, rng):
            return jax.vmap(jax.random.normal)(rng)[:, None] * self.weight[...][None]

    task, tx = Noise(), optax.sgd(0.0)
    skeleton = Skeleton(task)
    step = jax.jit(make_step(skeleton, tx, frozenset({"weight"}), None))

    def losses(seed: int) -> list[float]:
        state, found = init_state(task, skeleton, tx, frozenset({"weight"}), ema=False, seed=seed), []
        for _ in range(3):
            state, metrics = step(state, {"x": jnp.zeros((4, 2))})
            found.append(float(metrics["loss"]))
        return found

    assert losses(0) == losses(0) and len({*losses(0), *losses(1)}) == 6


def test_telemetry_is_of_the_logged_steps_alone():
    """And of the embeddings that the step compared, on any mesh."""
    problem = Problem(MLPS)
    _, every = problem.train(3)
    state, batch = problem.new(), jax.tree.map(jnp.asarray, problem.batch(next(batches(1))))
    task = problem.skeleton.merge(state.params, state.extra)
    expected = task.telemetry(task.encode(batch))
    assert_close({k: every[0][k] for k in expected}, expected)
    problem.step = make_step(
        problem.skeleton, problem.tx, problem.trainable, problem.ema, logged=lambda step: step % 2 == 0
    )
    for metrics in (problem.train(3)[1], problem.train(3, make_mesh(data=4, fsdp=2))[1]):
        assert all(np.isnan(metrics[i][k]) for i in (0, 2) for k in expected)
        assert_close(metrics[1], every[1])


@pytest.mark.parametrize("rows", [8, 2])
def test_pieces_give_the_gradient_of_the_whole_batch(rows):
    """With the same random draws, on any mesh."""
    problem = Problem(TRANSFORMERS)
    whole, _ = problem.train(2)
    problem.step = make_step(problem.skeleton, problem.tx, problem.trainable, problem.ema, microbatch=rows)
    pieces, _ = problem.train(2)
    assert_close(pieces.params, whole.params)
    for shape in [(2, 2, 2, 1), (1, 4, 1, 2)] if rows == 8 else []:
        mesh = jax.make_mesh(shape, AXES, axis_types=(jax.sharding.AxisType.Auto,) * 4)
        assert_close(problem.train(2, mesh)[0].params, whole.params)


def test_copies_exchange_gradients_once_a_step():
    """No reduction over devices is inside the loop over pieces."""
    problem = Problem(MLPS)
    step = make_step(problem.skeleton, problem.tx, problem.trainable, problem.ema, microbatch=8)
    mesh = make_mesh()
    shardings, rows = problem.shardings(mesh), batch_sharding(mesh)
    state = jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), jax.eval_shape(problem.new), shardings
    )
    batch = {
        k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=rows) for k, v in problem.batch(next(batches(1))).items()
    }
    with jax.set_mesh(mesh):
        program = jax.jit(step, out_shardings=(shardings, replicated(mesh))).lower(state, batch).compile().as_text()
    found, inside = computations(program), set()
    todo = re.findall(r"body=%([\w.-]+)", program)
    assert todo and "all-reduce(" in program
    while todo:
        if (name := todo.pop()) in found and name not in inside:
            inside.add(name)
            todo += re.findall(r"%([\w.-]+)", found[name])
    assert inside and not [name for name in inside if "all-reduce(" in found[name]]


def computations(program: str) -> dict[str, str]:
    """The computations of a module in XLA's text, by name."""
    return {
        m[1]: m[2] for m in re.finditer(r"^(?:ENTRY )?%([\w.-]+) \(.*?\{\n(.*?)^\}", program, re.DOTALL | re.MULTILINE)
    }


def test_what_a_task_keeps_goes_from_piece_to_piece():
    task, tx = Counting(), optax.sgd(0.5)
    skeleton = Skeleton(task)
    state = init_state(task, skeleton, tx, frozenset({"weight"}), ema=False, seed=0)
    state, _ = jax.jit(make_step(skeleton, tx, frozenset({"weight"}), None, microbatch=1))(
        state, {"x": jnp.ones((4, 2))}
    )
    assert (state.extra["seen"], state.extra["updates"]) == (4, 1)


def test_pieces_need_the_memory_of_one_piece():
    problem = Problem(TRANSFORMERS)
    state = jax.eval_shape(problem.new)
    batch = {k: jax.ShapeDtypeStruct((512, *v.shape[1:]), v.dtype) for k, v in problem.batch(next(batches(1))).items()}
    temporaries = {}
    for rows in (None, 32):
        step = make_step(problem.skeleton, problem.tx, problem.trainable, problem.ema, microbatch=rows)
        temporaries[rows] = jax.jit(step).lower(state, batch).compile().memory_analysis().temp_size_in_bytes
    assert temporaries[32] < temporaries[None] / 4

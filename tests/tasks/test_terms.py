"""What a list of losses can say beyond pairs: heads, scales, arrays, phases, tokens, teachers."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import Array

from bigcl import registry
from bigcl.losses import infonce, l2_normalize, sigmoid
from bigcl.registry import ConfigError
from bigcl.state import Skeleton, init_state, make_step
from bigcl.tasks.task import Moment
from tests.problems import BATCH

A = {"kind": "mlp", "inputs": 6, "widths": [5]}
B = {"kind": "mlp", "inputs": 3, "widths": [7, 5]}
BAG = {"kind": "token_mlp", "length": 4, "inputs": 2, "widths": [5]}


def build(**part):
    part = {"towers": {"a": A, "b": B, "c": "a"}, **part}
    return registry.build("task", {"kind": "two_tower", **part}, batch_size=BATCH, steps=10, rngs=nnx.Rngs(0))


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    shapes = {"a": (6,), "b": (3,), "c": (6,), "bag": (4, 2)}
    arrays = {k: jnp.asarray(rng.normal(size=(BATCH, *n)), jnp.float32) for k, n in shapes.items()}
    return {**arrays, "label": jnp.arange(BATCH) % 3}


def dtypes(za: Array, zb: Array, scale: Array, *, other: Array, labels: Array):
    seen.append([x.dtype.name for x in (za, zb, other, labels)])
    return (za * zb * other).sum().astype(jnp.float32) * scale


seen: list[list[str]] = []


def moment(step: int) -> Moment:
    return Moment(jnp.int32(step), jax.random.key(step))


def register(monkeypatch, **losses):
    """Losses of this file by name."""
    table = {**registry.REGISTRIES["loss"], **{k: f"{__name__}:{k}" for k in losses}}
    monkeypatch.setitem(registry.REGISTRIES, "loss", table)


def labelled(za: Array, zb: Array, scale: Array, *, labels: Array, power: int = 1):
    return scale * (za * zb).sum() * (labels**power).sum().astype(jnp.float32)


def three(*z: Array, scale: Array):
    return scale * math.prod([x.sum() for x in z], start=jnp.float32(1))


def noisy(za: Array, *, rng: Array):
    return (za.sum() + jax.random.normal(rng)).astype(jnp.float32)


def test_arrays_come_by_name_and_options_stay_options(monkeypatch, batch):
    register(monkeypatch, labelled=labelled)
    task = build(losses=[{"kind": "labelled", "of": ["a", "b"], "power": 2, "with": {"labels": "label"}}], init_scale=3)
    z = task.encode(batch)
    expected = labelled(z["a"], z["b"], jnp.float32(3), labels=batch["label"], power=2)
    np.testing.assert_allclose(task.loss(batch, None)[0], expected, rtol=1e-6)


def test_a_scale_is_fixed_or_learned_by_name(batch):
    losses = [
        {"kind": "infonce", "of": ["a", "b"], "scale": 20},
        {"kind": "infonce", "of": ["b", "c"], "scale": "other", "weight": 0.5},
    ]
    task = build(losses=losses, scales={"other": 4.0})
    z = task.encode(batch)
    value, metrics = task.loss(batch, None)
    expected = infonce(z["a"], z["b"], jnp.float32(20)) + 0.5 * infonce(z["b"], z["c"], jnp.float32(4))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["logit_scale/other"], 4, rtol=1e-6)
    task.log_scales["other"][...] = jnp.float32(10)
    task.after_update()
    np.testing.assert_allclose(jnp.exp(task.log_scales["other"][...]), 100, rtol=1e-5)


def test_a_loss_of_two_learned_scales(batch):
    """CL2L: the global pair at the task's scale, local views of heads at their own; both learn."""
    head = {"kind": "mlp", "inputs": 5, "widths": [4], "of": ["a", "b"]}
    of = ["a", "b", "local/a", "local/b"]
    views = {"kind": "views_infonce", "of": of, "with": {"local_scale": "local"}, "label_smoothing": 0.1}
    task = build(heads={"local": head}, scales={"local": 4.0}, losses=[views])
    apart = [
        {"kind": "infonce", "of": of[:2], "weight": 0.5},
        {"kind": "infonce", "of": of[2:], "weight": 0.5, "scale": "local", "label_smoothing": 0.1},
    ]
    other = build(heads={"local": head}, scales={"local": 4.0}, losses=apart)
    grads = [nnx.grad(lambda t: t.loss(batch, None)[0])(t) for t in (task, other)]
    np.testing.assert_allclose(task.loss(batch, None)[0], other.loss(batch, None)[0], rtol=1e-5)
    assert float(grads[0]["log_scales"]["local"][...]) != 0
    for found, wanted in zip(*map(jax.tree.leaves, grads), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    assert set(task.reads()) == {"a", "b", "c"}


def test_any_number_of_inputs(monkeypatch, batch):
    register(monkeypatch, three=three)
    task = build(losses=[{"kind": "three", "of": ["a", "b", "c"]}], init_scale=2)
    z = task.encode(batch)
    np.testing.assert_allclose(task.loss(batch, None)[0], 2 * z["a"].sum() * z["b"].sum() * z["c"].sum(), rtol=1e-4)


def test_a_loss_counts_in_its_part_of_the_run(batch):
    first, second = {"kind": "infonce", "of": ["a", "b"], "when": [0, 0.3]}, {"kind": "infonce", "of": ["b", "c"]}
    task = build(losses=[first, second])
    outputs = task.forward(batch, None)
    values = {step: task.objective(outputs, batch, moment(step)) for step in (0, 2, 3, 9)}
    for step, (value, metrics) in values.items():
        expected = metrics["loss/b_c"] + (metrics["loss/a_b"] if step < 3 else 0)
        np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_draws_differ_from_step_to_step_and_from_loss_to_loss(monkeypatch, batch):
    register(monkeypatch, noisy=noisy)
    task = build(losses=[{"kind": "noisy", "of": ["a"], "name": n} for n in "xy"])
    outputs = task.forward(batch, None)
    draw = lambda step: {k: float(v) for k, v in task.objective(outputs, batch, moment(step))[1].items()}  # noqa: E731
    assert draw(0) == draw(0) != draw(1)
    assert draw(0)["loss/x"] != draw(0)["loss/y"]


def test_heads_are_for_losses_alone(batch):
    head = {"kind": "mlp", "inputs": 5, "widths": [8, 4], "batch_norm": True, "of": ["a", "c"]}
    task = build(heads={"local": head}, losses=[{"kind": "infonce", "of": ["local/a", "local/c"]}])
    z = task.encode(batch)
    assert set(z) == {"a", "b", "c"}
    h = {name: task.heads["local"](z[name]) for name in ("a", "c")}
    assert h["a"].shape == (BATCH, 4)
    value, metrics = task.loss(batch, None)
    np.testing.assert_allclose(value, infonce(h["a"], h["c"], jnp.exp(task.log_scale[...])), rtol=1e-5)
    assert "loss/local_a_local_c" in metrics


def test_batch_norm_is_over_the_batch(batch):
    part = {"kind": "mlp", "inputs": 6, "widths": [4], "last_norm": True, "normalize": False}
    y = registry.build("head", part, rngs=nnx.Rngs(0))(batch["a"])
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(y.var(0), 1, atol=1e-3)


def test_tokens_reach_losses_and_heads(monkeypatch, batch):
    def tokens(za: Array, zb: Array):
        return (za.sum(1) * zb).sum()

    monkeypatch.setattr(f"{__name__}.three", tokens)
    register(monkeypatch, three=tokens)
    head = {"kind": "mlp", "inputs": 5, "widths": [5], "of": ["bag.tokens"]}
    losses = [{"kind": "three", "of": ["bag.tokens", "a"]}, {"kind": "three", "of": ["joint/bag.tokens", "a"]}]
    task = build(towers={"a": A, "bag": BAG}, heads={"joint": head}, losses=losses)
    outputs = task.forward(batch, None)
    value, _ = task.loss(batch, None)
    projected = task.heads["joint"](outputs["bag.tokens"])
    np.testing.assert_allclose(jnp.linalg.norm(projected, axis=-1), 1, rtol=1e-5)
    expected = tokens(outputs["bag.tokens"], outputs["a"]) + tokens(projected, outputs["a"])
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert "bag.tokens" not in build(towers={"a": A, "bag": BAG}, losses=[]).forward(batch, None)


def test_embeddings_that_are_not_normalised(batch):
    raw = build(normalize=False).encode(batch)
    unit = build().encode(batch)
    np.testing.assert_allclose(l2_normalize(raw["a"]), unit["a"], rtol=1e-5)
    assert float(jnp.abs(jnp.linalg.norm(raw["a"], axis=1) - 1).max()) > 0.01


def run(task, batch, steps, trained=""):
    """A few steps of training of the parameters that begin so; the task before and after."""
    skeleton = Skeleton(task)
    trainable = frozenset(k for k in skeleton.split(task)[0] if k.startswith(trained))
    tx = optax.sgd(0.5 if not trained else 0.1)
    state = init_state(task, skeleton, tx, trainable, ema=False, seed=0)
    begun = skeleton.merge(state.params, state.extra)
    begun.begin()
    state = state.replace(extra=skeleton.split(begun)[1])
    states, step = [state], jax.jit(make_step(skeleton, tx, trainable, None))
    for _ in range(steps):
        states.append(step(states[-1], batch)[0])
    return states


@pytest.mark.parametrize("decay", [None, 0.9])
def test_a_teacher_follows_or_stays(batch, decay):
    losses = [{"kind": "infonce", "of": ["a", "b"]}, {"kind": "infonce", "of": ["a", "teacher/b"]}]
    task = build(losses=losses, teacher={"decay": decay})
    assert not nnx.to_flat_state(nnx.state(task.teacher, nnx.Param))
    states = run(task, batch, 3)
    kept = {k.removeprefix("teacher/"): k for k in states[0].extra if k.startswith("teacher/")}
    assert kept.keys() == {k for k in states[0].params if k.startswith("towers/")}
    for owner, key in kept.items():
        np.testing.assert_array_equal(states[0].extra[key], states[0].params[owner])
        expected = states[0].params[owner]
        for state in states[1:]:
            if decay is not None:
                expected = decay * expected + (1 - decay) * state.params[owner]
        np.testing.assert_allclose(states[-1].extra[key], expected, rtol=1e-5, atol=1e-6)


def test_a_teacher_begins_as_the_parameters_that_the_run_starts_from(batch):
    task = build(losses=[{"kind": "infonce", "of": ["a", "teacher/b"]}], teacher={})
    task.towers["b"].layers[0].kernel[...] = 7 * jnp.ones((3, 7))
    task.begin()
    np.testing.assert_array_equal(task.teacher.towers["b"].layers[0].kernel[...], 7)
    outputs = task.forward(batch, None)
    np.testing.assert_allclose(outputs["teacher/b"], outputs["b"], rtol=1e-6)
    grads = jax.grad(lambda x: task.forward({**batch, "b": x}, None)["teacher/b"].sum())(batch["b"])
    np.testing.assert_array_equal(grads, 0)


def test_a_head_learns_to_regress_on_a_tower_that_stays(batch):
    """The last stage of a method that learns features first."""
    head = {"kind": "mlp", "inputs": 5, "widths": [1], "normalize": False, "of": ["a"]}
    loss = {"kind": "absolute_error", "of": ["value/a"], "with": {"labels": "label"}}
    task = build(towers={"a": A}, heads={"value": head}, losses=[loss], normalize=False)
    z = task.heads["value"](task.encode(batch)["a"])
    np.testing.assert_allclose(
        task.loss(batch, None)[0], np.abs(np.asarray(z)[:, 0] - np.asarray(batch["label"])).mean(), rtol=1e-5
    )
    assert task.reads()["label"].shape == ()
    states = run(task, batch, 30, trained="heads/")
    values = [Skeleton(task).merge(s.params, s.extra).loss(batch, None)[0] for s in (states[0], states[-1])]
    assert values[1] < 0.8 * values[0]
    for key, value in states[0].params.items():
        assert bool((states[-1].params[key] == value).all()) == (not key.startswith("heads/")), key


HEAD = {"kind": "mlp", "inputs": 7, "widths": [6, 4], "batch_norm": True, "last_norm": True}
PREDICTOR = {"kind": "mlp", "inputs": 4, "widths": [3, 4], "batch_norm": True}


def test_heads_read_features_and_heads_read_heads(batch):
    """Whatever the order in which the config names them."""
    heads = {"guess": {**PREDICTOR, "of": ["proj/b.features"]}, "proj": {**HEAD, "of": ["b.features"]}}
    task = build(heads=heads, losses=[{"kind": "negative_cosine", "of": ["guess/proj/b.features", "proj/b.features"]}])
    features = jax.nn.gelu(task.towers["b"].layers[0](batch["b"]), approximate=False)
    np.testing.assert_allclose(task.forward(batch, None)["b.features"], features, rtol=1e-5, atol=1e-6)
    v = task.heads["proj"](features)
    p = task.heads["guess"](v)
    expected = 2 - 2 * np.mean(np.sum(p * v, 1))
    np.testing.assert_allclose(task.loss(batch, None)[0], expected, rtol=1e-5)
    with pytest.raises(ConfigError, match=r"task\.heads: (x reads y reads x|y reads x reads y)"):
        build(heads={"x": {**PREDICTOR, "of": ["y/a"]}, "y": {**PREDICTOR, "of": ["x/a"]}}, losses=[])
    table = {"kind": "table", "rows": 3, "width": 5}
    lone = build(towers={"a": A, "label": table}, heads={"h": {**HEAD, "of": ["label.features"]}}, losses=[])
    with pytest.raises(ConfigError, match=re.escape("task.heads.h.of: a tower gives no 'label.features'")):
        lone.loss(batch, None)


def test_a_head_reads_outputs_side_by_side(batch):
    """M3CoL's classifier of what is fused; its outputs have heads and copies like any others."""
    joint = {"kind": "mlp", "inputs": 12, "widths": [4], "normalize": False, "of": ["b.features+a"]}
    after = {**PREDICTOR, "of": ["joint/b.features+a"]}
    loss = {"kind": "negative_cosine", "of": ["after/joint/b.features+a", "teacher/joint/b.features+a"]}
    task = build(heads={"after": after, "joint": joint}, losses=[loss], teacher={"decay": 0.5})
    z = task.forward(batch, None)
    joined = task.heads["joint"](jnp.concatenate([z["b.features"], z["a"]], 1))
    np.testing.assert_allclose(task.projected(z)["joint/b.features+a"], joined, rtol=1e-6)
    p, t = (l2_normalize(x) for x in (task.heads["after"](joined), joined))  # the teacher begins as a copy
    np.testing.assert_allclose(task.loss(batch, None)[0], 2 - 2 * np.mean(np.sum(p * t, 1)), rtol=1e-4)
    with pytest.raises(ConfigError, match=r"task\.heads\.joint\.of: unknown 'aa'"):
        build(heads={"joint": {**joint, "of": ["b+aa"]}}, losses=[])


def test_a_teacher_has_the_heads_that_losses_ask_it_for(batch):
    """BYOL: predictions of what a moving average of tower and projector, and no predictor, makes."""
    heads = {"proj": {**HEAD, "of": ["b.features"]}, "guess": {**PREDICTOR, "of": ["proj/b.features"]}}
    loss = {"kind": "negative_cosine", "of": ["guess/proj/b.features", "teacher/proj/b.features"]}
    task = build(heads=heads, losses=[loss], teacher={"decay": 0.5})
    states = run(task, batch, 2)
    copies = {k for k in states[0].extra if k.startswith("teacher/heads/")}
    assert copies == {f"teacher/{k}" for k in states[0].params if k.startswith("heads/proj/")}
    for key in copies:
        first, *later = [state.params[key.removeprefix("teacher/")] for state in states]
        expected = 0.25 * first + 0.25 * later[0] + 0.5 * later[1]
        np.testing.assert_allclose(states[-1].extra[key], expected, rtol=1e-5, atol=1e-6)
    ended = Skeleton(task).merge(states[-1].params, states[-1].extra)
    z = ended.teacher.heads["proj"](jax.nn.gelu(ended.teacher.towers["b"].layers[0](batch["b"]), approximate=False))
    p = ended.heads["guess"](ended.heads["proj"](ended.forward(batch, None)["b.features"]))
    np.testing.assert_allclose(ended.loss(batch, None)[0], 2 - 2 * np.mean(np.sum(p * z, 1)), rtol=1e-4)
    grads = nnx.grad(lambda task: task.loss(batch, None)[0])(ended)
    assert "teacher" not in grads and float(jnp.abs(grads["heads"]["proj"]["layers"][0]["kernel"][...]).max()) > 0


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"losses": [{"kind": "infonce", "of": ["a", "d"]}]}, "task.losses[0].of: unknown input 'd'"),
        ({"losses": [{"kind": "infonce", "of": ["a", "b", "c"]}]}, "expected two inputs, got ['a', 'b', 'c']"),
        ({"losses": [{"kind": "infonce", "of": ["a", "b"], "scale": "x"}]}, "task.losses[0].scale: unknown 'x'"),
        ({"losses": [{"kind": "infonce", "of": ["a", "b"], "when": [0.5, 0.5]}]}, "expected two shares of the run"),
        ({"losses": [{"kind": "infonce", "of": ["a", "b"], "with": {"x": "label"}}]}, "infonce has no 'x'"),
        ({"losses": [{"kind": "infonce", "of": ["a", "b"], "name": "n"}] * 2}, "another loss is called 'n'"),
        ({"losses": [{"kind": "infonce", "of": ["a", "teacher/b"]}]}, "unknown input 'teacher/b'"),
        (
            {"losses": [{"kind": "classification", "of": ["a"]}]},
            "task.losses[0]: classification needs 'labels'",
        ),
        (
            {"losses": [{"kind": "similarity_distillation", "of": ["a", "b"], "with": {"teacher_a": "a"}}]},
            "needs 'teacher_b'; name an output of the task, a key of the batch or one of task.scales: ",
        ),
        ({"losses": [{"kind": "grouping", "of": ["a", "b"]}]}, "grouping needs 'patches'"),
        ({"heads": {"h": {"kind": "mlp", "inputs": 5, "widths": [2], "of": ["aa"]}}}, "task.heads.h.of: unknown 'aa'"),
        ({"queues": {"q": {"of": ["teacher/b"], "size": 8, "width": 5}}}, "task.queues.q.of: unknown 'teacher/b'"),
        ({"queues": {"q": {"of": ["b"], "size": 0, "width": 5}}}, "expected a size and a width of 1 or more"),
        ({"queues": {"q": {"of": ["b"], "siz": 0, "width": 5}}}, "task.queues.q.siz: unknown key"),
        ({"teacher": {"decay": 1.5}}, "task.teacher.decay: expected 0 or more"),
        ({"teacher": {"decai": 0.5}}, "decai: unknown key; did you mean 'decay'"),
    ],
)
def test_errors_name_the_key(part, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        build(**part)


def test_embeddings_may_be_rounded_for_one_loss_alone(monkeypatch, batch):
    """Outputs alone; not labels, not what evaluators see, and no other loss."""
    register(monkeypatch, dtypes=None)
    part = {"kind": "dtypes", "of": ["a", "b"], "with": {"other": "c", "labels": "label"}}
    task = build(losses=[{**part, "embeddings": "bfloat16", "name": "half"}, {**part, "name": "full"}])
    seen.clear()
    task.loss(batch, None)
    assert seen == [["bfloat16"] * 3 + ["int32"], ["float32"] * 3 + ["int32"]]
    assert {x.dtype.name for x in task.encode(batch).values()} == {"float32"}


@pytest.mark.parametrize("kind", ["infonce", "sigmoid"])
def test_losses_of_rounded_embeddings(batch, kind):
    """Those of the rounded embeddings exactly, near those of the others, with a gradient for everything."""
    part = {"kind": kind, "of": ["a", "b"]}
    tasks = [build(losses=[{**part, **more}]) for more in ({}, {"embeddings": "bfloat16"})]
    full, half = (nnx.value_and_grad(lambda task: task.loss(batch, None)[0])(task) for task in tasks)
    z = [x.astype(jnp.bfloat16).astype(jnp.float32) for k, x in tasks[0].encode(batch).items() if k in "ab"]
    scale = jnp.exp(tasks[0].log_scale[...])
    expected = infonce(*z, scale) if kind == "infonce" else sigmoid(*z, scale, tasks[0].bias[...])
    np.testing.assert_allclose(half[0], expected, rtol=1e-5)
    for h, f in zip(jax.tree.leaves(half[1]), jax.tree.leaves(full[1]), strict=True):
        np.testing.assert_allclose(h, f, atol=0.03 * float(jnp.abs(f).max()))
        assert h.dtype == jnp.float32


def test_embeddings_in_another_dtype_are_an_error():
    with pytest.raises(ConfigError, match=r"embeddings: expected .*bfloat16.* got 'float8'"):
        build(losses=[{"kind": "infonce", "of": ["a", "b"], "embeddings": "float8"}])

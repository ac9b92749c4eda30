"""CLIP, SigLIP, CLIPPO and more than two inputs, from config alone."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bigcl import registry
from bigcl.losses import infonce, sigmoid, uniformity
from bigcl.losses.telemetry import pair_statistics
from bigcl.registry import ConfigError
from bigcl.state import Skeleton
from bigcl.tasks.two_tower import some
from tests.problems import BATCH, SMALL

A = {"kind": "mlp", "inputs": 6, "widths": [5]}
B = {"kind": "mlp", "inputs": 3, "widths": [7, 5]}
BOTH = {"a": A, "b": B}


def build(batch_size: int = BATCH, **part):
    return registry.build(
        "task", {"kind": "two_tower", "towers": BOTH, **part}, batch_size=batch_size, rngs=nnx.Rngs(0)
    )


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return {k: jnp.asarray(rng.normal(size=(BATCH, n)), jnp.float32) for k, n in {"a": 6, "b": 3, "c": 6}.items()}


def test_clip(batch):
    task = build()
    z = task.encode(batch)
    assert z.keys() == {"a", "b"} and all(v.shape == (BATCH, 5) and v.dtype == jnp.float32 for v in z.values())
    np.testing.assert_allclose(jnp.square(z["a"]).sum(1), 1, rtol=1e-5)
    value, metrics = task.loss(batch, None)
    np.testing.assert_allclose(value, infonce(z["a"], z["b"], jnp.float32(1 / 0.07)), rtol=1e-6)
    assert metrics.keys() == {"logit_scale", "loss/a_b"}
    np.testing.assert_allclose(metrics["logit_scale"], 1 / 0.07, rtol=1e-6)
    assert task.bias is None and task.describe() == ["task.init_scale = 14.29 (CLIP)"]


def test_siglip_derives_scale_and_bias(batch):
    task = build(losses=[{"kind": "sigmoid", "of": ["a", "b"]}], batch_size=32_768)
    z = task.encode(batch)
    value, metrics = task.loss(batch, None)
    np.testing.assert_allclose(metrics["bias"], -math.log(32_767), rtol=1e-6)
    np.testing.assert_allclose(value, sigmoid(z["a"], z["b"], jnp.float32(10), metrics["bias"]), rtol=1e-5)
    assert len(task.describe()) == 2 and "batch 32768" in task.describe()[1]
    given = build(losses=[{"kind": "sigmoid", "of": ["a", "b"]}], init_scale=2.0, init_bias=-1.0)
    assert given.bias[...] == -1 and given.describe() == []
    np.testing.assert_allclose(given.log_scale[...], math.log(2), rtol=1e-6)


def test_bfloat16_towers_give_float32_embeddings_and_loss(batch):
    part = {"kind": "two_tower", "towers": BOTH}
    task = registry.build("task", part, batch_size=BATCH, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    value, _ = task.loss(batch, None)
    assert value.dtype == jnp.float32 and all(z.dtype == jnp.float32 for z in task.encode(batch).values())
    np.testing.assert_allclose(value, build().loss(batch, None)[0], rtol=0.05)


def test_clippo_shares_one_tower(batch):
    task = build(towers={"a": A, "c": "a"})
    assert set(task.towers) == {"a"}
    assert {k.split("/")[1] for k in Skeleton(task).split(task)[0] if k.startswith("towers")} == {"a"}
    z = task.encode(batch)
    np.testing.assert_array_equal(task.encode({"c": batch["a"]})["c"], z["a"])
    np.testing.assert_allclose(task.loss(batch, None)[0], infonce(z["a"], z["c"], jnp.float32(1 / 0.07)), rtol=1e-6)
    grads = nnx.grad(lambda task: task.loss(batch, None)[0])(task)
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(grads))


def test_three_inputs_and_weights(batch):
    losses = [
        {"kind": "infonce", "of": ["a", "b"]},
        {"kind": "infonce", "of": ["b", "c"], "weight": 0.5, "direction": "a_to_b"},
        {"kind": "sigmoid", "of": ["c", "a"], "weight": 2},
    ]
    task = build(towers={**BOTH, "c": A}, losses=losses)
    z = task.encode(batch)
    value, metrics = task.loss(batch, None)
    scale, bias = metrics["logit_scale"], metrics["bias"]
    parts = {
        "loss/a_b": infonce(z["a"], z["b"], scale),
        "loss/b_c": infonce(z["b"], z["c"], scale, direction="a_to_b"),
        "loss/c_a": sigmoid(z["c"], z["a"], scale, bias),
    }
    for name, expected in parts.items():
        np.testing.assert_allclose(metrics[name], expected, rtol=1e-6)
    np.testing.assert_allclose(value, parts["loss/a_b"] + 0.5 * parts["loss/b_c"] + 2 * parts["loss/c_a"], rtol=1e-6)


def test_telemetry_of_each_pair_once_and_of_each_input(batch):
    of = [("a", "b"), ("b", "c"), ("a", "b")]
    losses = [{"kind": "infonce", "of": pair, "name": f"loss {i}"} for i, pair in enumerate(of)]
    task = build(towers={**BOTH, "c": A}, losses=losses)
    z, found = task.encode(batch), task.telemetry(task.encode(batch))
    wanted = {f"{name}/uniformity": uniformity(z[name]) for name in "abc"}
    for x, y in of[:2]:
        numbers = pair_statistics(z[x], z[y], jnp.float32(1 / 0.07))
        wanted |= {f"{x}_{y}/{name}": value for name, value in numbers.items()}
    assert found.keys() == wanted.keys() and "b_c/effective_negatives" in found
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)


def test_telemetry_takes_some_rows_of_a_large_batch():
    z = jnp.arange(1300.0)[:, None]
    np.testing.assert_array_equal(some(z)[:, 0], np.arange(0, 1300, 3))
    np.testing.assert_array_equal(some(z, rows=40), z[::33])
    np.testing.assert_array_equal(some(z[:512]), z[:512])


def test_two_losses_of_one_pair_both_count(batch):
    losses = [{"kind": "infonce", "of": ["a", "b"]}, {"kind": "sigmoid", "of": ["a", "b"]}]
    task = build(losses=losses)
    z, (value, metrics) = task.encode(batch), task.loss(batch, None)
    both = infonce(z["a"], z["b"], metrics["logit_scale"]) + sigmoid(
        z["a"], z["b"], metrics["logit_scale"], metrics["bias"]
    )
    np.testing.assert_allclose(value, both, rtol=1e-6)


def test_only_what_is_in_the_batch_is_encoded(batch):
    task = build()
    assert task.encode({"b": batch["b"]}).keys() == {"b"}
    np.testing.assert_array_equal(task.encode({"b": batch["b"]})["b"], task.encode(batch)["b"])


def test_masks_come_from_the_batch():
    text = {"kind": "text", "vocab": 9, "length": 4, "pool": "mean", **SMALL}
    task = build(towers={"a": A, "text": text})
    x, mask = jnp.array([[1, 2, 3, 4]], jnp.int32), jnp.array([[True, True, True, False]])
    run = nnx.jit(lambda task, batch: task.encode(batch)["text"])
    masked = run(task, {"text": x, "text_mask": mask})
    np.testing.assert_allclose(masked, run(task, {"text": x.at[0, 3].set(7), "text_mask": mask}), atol=1e-6)
    assert float(jnp.abs(masked - run(task, {"text": x})).max()) > 1e-3


def test_each_tower_has_its_own_randomness():
    text = {
        "kind": "text",
        "vocab": 9,
        "length": 4,
        "dropout": 0.5,
        **{k: v for k, v in SMALL.items() if k != "dropout"},
    }
    task = build(towers={"a": text, "b": "a"})
    x = jnp.array([[1, 2, 3, 4]] * 4, jnp.int32)
    out = nnx.jit(lambda task, rng: task.forward({"a": x, "b": x}, rng))(task, jax.random.split(jax.random.key(0), 4))
    assert float(jnp.abs(out["a"] - out["b"]).max()) > 1e-2
    out = nnx.jit(lambda task: task.encode({"a": x, "b": x}))(task)
    np.testing.assert_allclose(out["a"], out["b"], atol=1e-6)


@pytest.mark.parametrize(("start", "end"), [(500.0, 100.0), (100.0, 100.0), (20.0, 20.0)])
def test_the_scale_is_clamped_after_each_step(start, end):
    task = build(init_scale=start, max_scale=100.0)
    task.after_update()
    np.testing.assert_allclose(jnp.exp(task.log_scale[...]), end, rtol=1e-5)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (
            {"losses": [{"kind": "infonce", "of": ["a", "bb"]}]},
            "task.losses[0].of: unknown input 'bb'; did you mean 'b'?",
        ),
        ({"losses": [{"kind": "infonce", "of": ["a"]}]}, "task.losses[0].of: expected two inputs, got ['a']"),
        ({"losses": [{"kind": "infonce"}]}, "task.losses[0].of: expected two inputs, got []"),
        ({"losses": [{"kind": "infonce", "of": ["a", "b"], "bias": 1.0}]}, "task.losses[0].bias: unknown key"),
        (
            {"towers": {"image": A, "text": "imag"}},
            "task.towers.text: shares the tower of 'imag', which has none; did you mean 'image'?",
        ),
        ({"towers": {"a": "b", "b": "a"}}, "task.towers.a: shares the tower of 'b', which has none"),
        ({"towers": {"a": {**A, "inputs": None}, "b": B}}, "task.towers.a.inputs: expected int, got None"),
        ({"max_scal": 1.0}, "task.max_scal: unknown key; did you mean 'max_scale'?"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_errors_name_the_key(part, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        build(**part)

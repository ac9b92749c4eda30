"""The self-supervised terms of the improved baselines, as their recipe puts them together, over small towers."""

import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from bigcl import registry
from bigcl.config import plain
from bigcl.losses import barlow, infonce, negative_cosine, swapped
from bigcl.state import Skeleton, init_state, make_step

RECIPE = runpy.run_path(str(pathlib.Path(__file__).parents[2] / "configs" / "papers" / "improved_clip_baselines.py"))
TOWERS = {
    "image": {"kind": "mlp", "inputs": 12, "widths": [16, 8]},
    "text": {"kind": "mlp", "inputs": 10, "widths": [14, 8]},
}
ROWS, SIDES, LOCAL = 32, ("image", "text"), ("1", "2")
EVERY = pytest.mark.parametrize("variant", ["method", *RECIPE["TERMS"]])


def build(variant):
    part = plain(RECIPE["task"](TOWERS, {"image": 16, "text": 14}, [24, 24, 6], variant))
    return registry.build("task", {"kind": "two_tower", **part}, batch_size=ROWS, steps=60, rngs=nnx.Rngs(0))


def pairs():
    """Two linear images of the same things, and noisy views of each."""
    rng = np.random.default_rng(0)
    things = rng.normal(size=(ROWS, 6))
    plain = {side: things @ rng.normal(size=(6, n)) for side, n in zip(SIDES, (12, 10), strict=True)}
    noisy = {f"{side}{n}": x + 0.1 * rng.normal(size=x.shape) for side, x in plain.items() for n in LOCAL}
    return {k: jnp.asarray(x, jnp.float32) for k, x in {**plain, **noisy}.items()}


@EVERY
def test_the_loss_is_that_of_the_sheet(variant):
    """Put together from arrays: a third global, two thirds the mean of local pairs, both directions summed; and the
    mean of the terms over pairs and directions."""
    task, batch = build(variant), pairs()
    outputs = task.forward(batch, None)
    made = {**outputs, **task.projected(outputs)}
    of = lambda head, name: made[f"{head}_{name.rstrip('12')}/{name}.features"]  # noqa: E731
    names = [("image", "text"), *((f"image{n}", f"text{m}") for n in LOCAL for m in LOCAL)]
    smoothing = 0.0 if variant == "swalip" else 0.1
    scales = [jnp.exp(x[...]) for x in (task.log_scale, task.log_scales["local"])]
    local = [
        infonce(of("local", a), of("local", b), scales[1], label_smoothing=smoothing, direction="sum")
        for a, b in names[1:]
    ]
    expected = infonce(outputs["image"], outputs["text"], scales[0], direction="sum") / 3 + 2 / 3 * sum(local) / 4
    if variant == "barlip":
        terms = [barlow(of("own", a), of("own", b), standardize=False) for a, b in names]
        expected += 0.025 * sum(terms) / 5
    if variant == "swalip":
        rows = [of("local", f"{side}{n}") for side in SIDES for n in LOCAL]
        expected += 0.2 * swapped(*rows, scales[1])
    if variant in ("siamlip", "byolip"):
        by = "teacher/" if variant == "byolip" else ""
        guess = lambda x: made[f"guess_{x.rstrip('12')}/own_{x.rstrip('12')}/{x}.features"]  # noqa: E731
        own = lambda x: made[f"{by}own_{x.rstrip('12')}/{x}.features"]  # noqa: E731
        terms = [negative_cosine(guess(x), own(y)) for a, b in names for x, y in ((a, b), (b, a))]
        assert len(terms) == 2 + 2 * 2**2
        expected += sum(terms) / len(terms)
    np.testing.assert_allclose(task.loss(batch, None)[0], expected, rtol=1e-5)


@EVERY
def test_the_term_falls_and_nothing_collapses(variant):
    task, batch = build(variant), pairs()
    skeleton = Skeleton(task)
    params, _ = skeleton.split(task)
    tx = optax.sgd(0.05, momentum=0.9)
    state = init_state(task, skeleton, tx, frozenset(params), ema=False, seed=0)
    step, values = jax.jit(make_step(skeleton, tx, frozenset(params), None)), []
    for _ in range(60):
        state, metrics = step(state, batch)
        named = [float(v) for k, v in metrics.items() if k.startswith(f"loss/{variant}")]
        values.append(np.mean(named or [float(metrics["loss"])]))
    assert np.isfinite(values).all() and np.mean(values[-5:]) < 0.9 * values[0]  # SwALIP's ends at its targets' entropy
    z = skeleton.merge(state.params, state.extra).encode(batch)
    for side in SIDES:
        cosine = np.asarray(z[side] @ z[side].T)
        assert cosine[~np.eye(ROWS, dtype=bool)].mean() < 0.5
    if variant == "byolip":
        moved = [k for k in state.extra if k.startswith("teacher/heads/own_")]
        assert moved and not any(k.startswith("teacher/heads/guess") for k in state.extra)

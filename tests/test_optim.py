"""Every optimizer through the same properties; multipliers, decay and freezing against AdamW written out in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bigcl import optim, optimizers, registry, rules
from bigcl.optim import make_optimizer
from bigcl.registry import ConfigError

KINDS = sorted(registry.REGISTRIES["optimizer"])
FLAT = {"kind": "constant", "warmup": 0}
DEPTH = 3


def shapes():
    """The leaves of a small tower: stem, stacked blocks, head, and a scalar outside."""
    return {
        "log_scale": (),
        "towers/image/cls": (1, 8),
        "towers/image/embed/bias": (8,),
        "towers/image/embed/kernel": (12, 8),
        "towers/image/norm/scale": (8,),
        "towers/image/position": (5, 8),
        "towers/image/projection/kernel": (8, 4),
        "towers/image/stack/blocks/attention/out": (DEPTH, 2, 4, 8),
        "towers/image/stack/blocks/attention/qkv": (DEPTH, 8, 3, 2, 4),
        "towers/image/stack/blocks/attention/qkv_bias": (DEPTH, 3, 2, 4),
        "towers/image/stack/blocks/mlp/up/kernel": (DEPTH, 8, 16),
        "towers/image/stack/blocks/norm1/scale": (DEPTH, 8),
        "towers/text/embed": (20, 8),
    }


def draw(seed, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return {k: rng.standard_normal(s).astype(dtype) for k, s in shapes().items()}


def make(**options):
    return make_optimizer(draw(0), **{"steps": 100, "batch_size": 256, "lr": 0.1, "schedule": FLAT, **options})


def run(optimizer, params, grads):
    """Parameters after one update for each tree of gradients."""

    @jax.jit
    def step(params, state, grads):
        updates, state = optimizer.tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = jax.tree.map(jnp.asarray, params)
    state = optimizer.tx.init(params)
    for g in grads:
        params, state = step(params, state, g)
    return jax.device_get(params)


def numpy_adamw(p, grads, *, lr, b2=0.999, decay=0.0, mult=1.0):
    """Loshchilov and Hutter 2019, algorithm 2, with the decay multiplied by the learning rate as PyTorch does."""
    p, m, v = np.float64(p), 0.0, 0.0
    for t, g in enumerate(np.float64(grads), start=1):
        m, v = 0.9 * m + 0.1 * g, b2 * v + (1 - b2) * g * g
        step = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - b2**t)) + 1e-8)
        p = p - lr(t - 1) * mult * (step + decay * p)
    return p


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_optimizer(kind, dtype):
    """Converges on a quadratic under jit, with a donated state whose shapes and dtypes never change."""
    optimizer = make(
        optimizer={"kind": kind},
        lr=0.02 if kind == "sgd" else 0.05,
        steps=300,
        schedule={"kind": "cosine"},
        clip_norm=None,
    )
    target = jax.tree.map(lambda x: jnp.asarray(x, dtype), draw(1))
    params = jax.tree.map(jnp.zeros_like, target)

    @jax.jit
    def loss(params):
        return sum(jnp.sum(jnp.square((params[k] - target[k]).astype(jnp.float32))) for k in params)

    def step(params, state):
        updates, state = optimizer.tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    state = jax.jit(optimizer.tx.init)(params)
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(state))
    described = jax.tree.map(lambda x: (x.shape, x.dtype), (params, state))
    step, first = jax.jit(step, donate_argnums=(0, 1)), loss(params)
    for _ in range(300):
        params, state = step(params, state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), (params, state)) == described
    assert loss(params) < 0.05 * first


@pytest.mark.parametrize("kind", KINDS)
def test_mu_dtype_halves_the_first_moment(kind):
    def size(name):
        state = jax.eval_shape(make(optimizer={"kind": kind, "mu_dtype": name}).tx.init, draw(0))
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state) if x.ndim)

    saved = 2 * sum(x.size for x in draw(0).values())
    assert size("float32") - size("bfloat16") == pytest.approx(saved, abs=8)  # scalars are not counted


def test_adamw_with_rules_equals_numpy():
    """Multipliers, decay and schedule, step by step."""
    params, grads = draw(0), [draw(i) for i in range(1, 6)]
    optimizer = make(
        steps=5,
        schedule={"kind": "linear", "warmup": 2},
        lr_mults=[("towers/text/.*", 0.1), (".*", 1.0)],
        weight_decay=[(".*/(kernel|qkv)", 0.2), (".*", 0.0)],
        clip_norm=None,
    )
    after = run(optimizer, params, grads)
    rates = [0.1 * x for x in (1 / 3, 2 / 3, 1, 2 / 3, 1 / 3)]
    np.testing.assert_allclose([optimizer.schedule(i) for i in range(5)], rates, rtol=1e-5)
    for path, value in after.items():
        decay = 0.2 if path.endswith(("kernel", "qkv")) else 0.0
        mult = 0.1 if path.startswith("towers/text") else 1.0
        expected = numpy_adamw(params[path], [g[path] for g in grads], lr=rates.__getitem__, decay=decay, mult=mult)
        np.testing.assert_allclose(value, expected, atol=2e-5, err_msg=path)


def test_default_decay_takes_matrices_only():
    decayed = {path for path, rate in optim.decay_rates(rules.flatten(draw(0)), 0.3).items() if rate}
    assert decayed == {
        "towers/image/embed/kernel",
        "towers/image/projection/kernel",
        "towers/image/stack/blocks/attention/out",
        "towers/image/stack/blocks/attention/qkv",
        "towers/image/stack/blocks/mlp/up/kernel",
        "towers/text/embed",
    }


def test_frozen_parameters_stay_and_cost_nothing():
    params, grads = draw(0), [draw(1), draw(2)]
    optimizer = make(freeze=["towers/image/.*", "log_scale"], weight_decay=0.1)
    assert optimizer.trainable == {"towers/text/embed"}
    after = run(optimizer, params, grads)
    for path in set(params) - optimizer.trainable:
        np.testing.assert_array_equal(after[path], params[path])
    assert np.abs(after["towers/text/embed"] - params["towers/text/embed"]).min() > 0
    moments = [x for x in jax.tree.leaves(optimizer.tx.init(params)) if x.ndim]
    assert [x.shape for x in moments] == [(20, 8)] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_trained_parameters_alone_give_the_same_updates(kind):
    """The trainer may leave frozen parameters, and their gradients, out of the trees."""
    optimizer = make(optimizer={"kind": kind}, freeze=["towers/text/.*"])
    trained = [{k: v for k, v in tree.items() if k in optimizer.trainable} for tree in (draw(0), draw(1))]
    whole, part = run(optimizer, draw(0), [draw(1)]), run(optimizer, trained[0], [trained[1]])
    for path in optimizer.trainable:
        np.testing.assert_array_equal(whole[path], part[path])


def test_nested_trees():
    nested = {"a": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
    optimizer = make_optimizer(nested, steps=10, batch_size=8, lr=0.1, freeze=["a/bias"])
    updates, _ = optimizer.tx.update(nested, optimizer.tx.init(nested), nested)
    assert jax.tree.structure(updates) == jax.tree.structure(nested)
    assert not updates["a"]["bias"].any() and updates["a"]["kernel"].all()


def test_clipping_counts_trained_parameters_only():
    """A huge gradient of a frozen parameter must not shrink the step of the others."""
    grads = {k: np.full_like(v, 1e6) for k, v in draw(0).items()} | {"log_scale": np.float32(3.0)}
    sgd = {"kind": "sgd", "momentum": 0.0}
    step = (
        run(make(optimizer=sgd, lr=1.0, freeze=["towers/.*"], clip_norm=2.0), draw(0), [grads])["log_scale"]
        - draw(0)["log_scale"]
    )
    assert step == pytest.approx(-2.0, rel=1e-5)
    moved = run(make(optimizer=sgd, lr=1.0, clip_norm=2.0), draw(0), [grads])
    assert optax.tree.norm(jax.tree.map(lambda a, b: a - b, moved, draw(0))) == pytest.approx(2.0, rel=1e-4)


def test_layer_decay():
    """BEiT's rule on stacked layers: one factor for each layer of an array."""
    params, grads = draw(0), [draw(1)]
    plain, decayed = (run(make(layer_decay=rate, clip_norm=None), params, grads) for rate in (None, 0.5))
    for path, before in params.items():
        factor = np.ones(before.shape)
        if "blocks" in path:
            factor = np.array([1 / 8, 1 / 4, 1 / 2]).reshape(DEPTH, *(1,) * (before.ndim - 1))
        elif path.startswith(("towers/image/embed", "towers/image/cls", "towers/image/position")):
            factor = 1 / 16
        np.testing.assert_allclose(decayed[path] - before, factor * (plain[path] - before), atol=1e-6, err_msg=path)


def test_muon_steps_are_orthogonal_matrix_by_matrix():
    """Each layer, and each of query, key and value, gets a step of near-equal singular values and the right size."""
    params = draw(0)
    after = run(make(optimizer={"kind": "muon", "rms": 0.2, "adam_lr": 0.5}, lr=1.0, clip_norm=None), params, [draw(1)])
    step = {k: after[k] - params[k] for k in params}
    qkv = step["towers/image/stack/blocks/attention/qkv"].transpose(0, 2, 1, 3, 4).reshape(-1, 8, 8)
    out = step["towers/image/stack/blocks/attention/out"].reshape(-1, 8, 8)
    up = step["towers/image/stack/blocks/mlp/up/kernel"]
    for matrices in (qkv, out, up):
        scale = 0.2 * max(matrices.shape[1:]) ** 0.5
        assert (np.abs(np.linalg.svd(matrices, compute_uv=False) / scale - 0.95) < 0.35).all()
    embedding = np.abs(step["towers/text/embed"])  # Adam's first step: a sign
    np.testing.assert_allclose(embedding, embedding[0, 0], rtol=1e-3)
    np.testing.assert_allclose(embedding, np.abs(step["log_scale"]), rtol=1e-3)
    assert 0.4 < embedding[0, 0] < 1


@pytest.mark.parametrize("batch, b2", [(256, 0.999), (4095, 0.999), (4096, 0.98), (16_384, 0.98), (32_768, 0.95)])
def test_derived_b2(batch, b2):
    assert optimizers.default_b2(batch) == b2
    params, grads = draw(0), [draw(1), draw(2)]
    optimizer = make(batch_size=batch, clip_norm=None)
    value = run(optimizer, params, grads)["log_scale"]
    expected = numpy_adamw(params["log_scale"], [g["log_scale"] for g in grads], lr=lambda _: 0.1, b2=b2)
    assert value == pytest.approx(expected, abs=1e-5)
    assert any(f"b2 = {b2}" in line for line in optimizer.notes)


def test_notes_name_only_what_was_derived():
    notes = "\n".join(make(optimizer={"kind": "adamw", "b2": 0.9}, weight_decay=0.1).notes)
    total, decayed = sum(x.size for x in draw(0).values()), 12 * 8 + 8 * 4 + DEPTH * (64 + 192 + 128) + 160
    assert f"{total:,} of {total:,} parameters trained, {decayed:,} with weight decay" in notes
    assert "b2" not in notes and "warmup" not in notes
    assert "warmup = 10 steps" in "\n".join(make(schedule={"kind": "cosine"}).notes)


def test_ema_update():
    ema = {"a": jnp.zeros(2), "b": jnp.ones(3)}
    params = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.full(3, 2.0)}
    new = jax.jit(optim.ema_update)(ema, params, 0.9)
    np.testing.assert_allclose(new["a"], 0.1, rtol=1e-6)
    np.testing.assert_allclose(new["b"], 1.1, rtol=1e-6)
    assert new["a"].dtype == jnp.float32


@pytest.mark.parametrize(
    "options, words",
    [
        (
            {"lr_mults": [("towers/imge/.*", 0.1), (".*", 1.0)]},
            "optim.lr_mults: pattern 'towers/imge/.*' matches no parameter",
        ),
        ({"lr_mults": [("towers/.*", 0.1)]}, "optim.lr_mults: no pattern covers log_scale"),
        ({"lr_mults": [(".*", "fast")]}, "optim.lr_mults: expected a number for each pattern, got 'fast'"),
        ({"weight_decay": [("tower/.*", 0.1), (".*", 0.0)]}, "optim.weight_decay: pattern 'tower/.*'"),
        ({"freeze": ["image/.*"]}, "optim.freeze: pattern 'image/.*'"),
        ({"freeze": [".*"]}, "nothing is left to train"),
        ({"optimizer": {"kind": "adam"}}, "did you mean 'adamw'"),
        ({"optimizer": {"kind": "lion", "b_2": 0.9}}, "did you mean 'b2'"),
        ({"optimizer": {"kind": "sgd", "momentum": "much"}}, "momentum: expected"),
        ({"optimizer": {"kind": "adamw", "mu_dtype": "bf16"}}, "mu_dtype: expected"),
    ],
)
def test_errors_name_what_is_wrong(options, words):
    with pytest.raises(ConfigError) as error:
        make(**options)
    assert words in str(error.value)


def test_layer_decay_needs_layers():
    with pytest.raises(ConfigError, match="layer_decay"):
        make_optimizer({"kernel": jnp.ones((2, 2))}, steps=10, batch_size=8, lr=0.1, layer_decay=0.5)

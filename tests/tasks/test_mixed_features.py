"""Towers whose tokens are mixed."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bigcl import registry
from bigcl.losses import infonce
from bigcl.registry import ConfigError
from tests.problems import BATCH

VIT = {"kind": "vit", "image_size": 16, "patch": 8, "width": 32, "depth": 1, "heads": 2}
PART = {
    "kind": "mixed_features",
    "towers": {
        "image": {**VIT, "embed_dim": 12},
        "ssl": {**VIT, "width": 16, "pool": "mean", "registers": 2},
        "text": {"kind": "token_mlp", "length": 3, "vocab": 10, "width": 12},
    },
    "mixture": {"of": ["image", "ssl"], "inputs": [32, 16], "width": 24, "heads": 2, "embed_dim": 12},
    "losses": [{"kind": "infonce", "of": ["mixed", "text"]}],
}


def build(mixture=None, towers=None):
    part = {**PART, "mixture": {**PART["mixture"], **(mixture or {})}, "towers": {**PART["towers"], **(towers or {})}}
    return registry.build("task", part, batch_size=BATCH, rngs=nnx.Rngs(0))


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    picture = jnp.asarray(rng.integers(0, 256, (BATCH, 16, 16, 3), np.uint8))
    return {"image": picture, "ssl": picture, "text": jnp.asarray(rng.integers(0, 10, (BATCH, 3), np.int32))}


encode = nnx.jit(lambda task, batch: task.encode(batch))


def test_the_loss_compares_what_is_mixed(batch):
    task = build()
    z = encode(task, batch)
    assert {k: v.shape[1] for k, v in z.items()} == {"image": 12, "ssl": 16, "text": 12, "mixed": 12}
    np.testing.assert_allclose(np.linalg.norm(z["mixed"], axis=1), 1, atol=1e-6)
    value, _ = task.loss(batch, None)
    np.testing.assert_allclose(value, infonce(z["mixed"], z["text"], scale=jnp.exp(task.log_scale[...])), rtol=1e-5)


def test_the_reader_sees_the_patches_of_both_in_turn(batch):
    """Written out: maps, tokens in turn, norm, attention of one query, projection."""
    task, reader = build(), build().mixture
    first, second = (task.towers[n](batch[n]).tokens for n in ("image", "ssl"))
    tokens = [m(x) for p in range(4) for m, x in zip(reader.features.maps, (first[:, p], second[:, p]), strict=True)]
    wanted = reader.projection(reader.pool(reader.norm(jnp.stack(tokens, 1))))
    wanted = wanted / jnp.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(encode(task, batch)["mixed"], wanted, atol=1e-5)


@pytest.mark.parametrize("mode", ["interleaved", "additive"])
def test_every_tower_matters_and_everything_learns(batch, mode):
    task = build({"mode": mode, "inputs": [32, 32]}, {"ssl": {**VIT, "pool": "mean", "embed_dim": 12}})
    mixed = encode(task, batch)["mixed"]
    for name in ("image", "ssl"):
        assert float(jnp.abs(encode(task, {**batch, name: 255 - batch[name]})["mixed"] - mixed).max()) > 1e-3
    grads = nnx.to_flat_state(nnx.jit(nnx.grad(lambda task: task.loss(batch, None)[0]))(task))
    still = {path for path, g in grads if not jnp.abs(g.get_value()).max() > 0}
    own = {("towers", name, "projection", "kernel") for name in ("image", "ssl")}
    assert still == own  # those of the embeddings that the towers have of their own, which no loss compares


def test_one_tower_alone_and_inputs_that_are_not_there(batch):
    task = build({"of": ["image"], "inputs": [32]})
    other = {**batch, "ssl": 255 - batch["ssl"]}
    np.testing.assert_array_equal(encode(task, batch)["mixed"], encode(task, other)["mixed"])
    assert set(encode(build(), {"image": batch["image"], "text": batch["text"]})) == {"image", "text"}


def test_what_cannot_be_mixed_is_an_error(batch):
    with pytest.raises(ConfigError, match=r"task\.mixture\.of: unknown input 'imgae'; did you mean 'image'"):
        build({"of": ["imgae", "ssl"]})
    with pytest.raises(ConfigError, match="2 inputs and 1 widths"):
        build({"inputs": [32]})
    with pytest.raises(ConfigError, match=r"towers on one grid .* \{'image': 4, 'ssl': 16\}"):
        build({}, {"ssl": {**VIT, "width": 16, "patch": 4}}).encode(batch)
    padded = {**batch, "text_mask": jnp.ones((BATCH, 3), bool)}
    with pytest.raises(ConfigError, match="pads its tokens"):
        build({"of": ["text"], "inputs": [12]}).encode(padded)

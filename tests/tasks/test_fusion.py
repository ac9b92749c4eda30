"""Inputs that are read together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bigcl import registry
from bigcl.losses.unique import unique_contrast
from bigcl.mesh import make_mesh
from bigcl.registry import ConfigError
from tests.problems import BATCH, Problem, assert_close

WORDS = {"kind": "text", "vocab": 128, "length": 6, "width": 16, "depth": 1, "heads": 2, "pool": "first", "pad_id": 0}
FUSION = {"of": ["image", "text"], "lengths": [4, 6], "inputs": [32, 16], "width": 24, "depth": 1, "heads": 2}
PART = {
    "kind": "fusion",
    "towers": {
        "image": {"kind": "vit", "image_size": 16, "patch": 8, "width": 32, "depth": 1, "heads": 2},
        "text": {**WORDS, "causal": False},
        "answer": {"kind": "token_mlp", "length": 2, "vocab": 10, "width": 12},
    },
    "fusion": {**FUSION, "mlp_width": 32, "embed_dim": 12},
    "losses": [{"kind": "unique_contrast", "of": ["fused", "answer"], "with": {"labels": "label"}}],
    "normalize": False,
}


def build(**options):
    return registry.build("task", {**PART, **options}, batch_size=BATCH, rngs=nnx.Rngs(0))


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    answer = rng.integers(0, 10, (BATCH, 2), np.int32)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (BATCH, 16, 16, 3), np.uint8)),
        "text": jnp.asarray(rng.integers(1, 128, (BATCH, 6), np.int32)).at[:, 4:].set(0),
        "answer": jnp.asarray(answer),
        "label": jnp.asarray(answer @ np.array([10, 1], np.int32)),
    }


def test_the_loss_compares_what_is_fused(batch):
    task = build()
    z = task.encode(batch)
    assert z["fused"].shape == (BATCH, 12)
    value, _ = task.loss(batch, None)
    wanted = unique_contrast(z["fused"], z["answer"], labels=batch["label"])
    np.testing.assert_allclose(value, wanted, rtol=1e-5)


def test_both_inputs_matter_and_padding_does_not(batch):
    task = build()
    fused = task.encode(batch)["fused"]
    for changed in ({"image": 255 - batch["image"]}, {"text": batch["text"].at[:, 1].set(7)}):
        assert float(jnp.abs(task.encode({**batch, **changed})["fused"] - fused).max()) > 1e-3
    short = task.encode({**batch, "text": batch["text"][:, :4]})["fused"]
    np.testing.assert_allclose(short, fused, atol=1e-5)


def test_everything_learns(batch):
    grads = nnx.grad(lambda task: task.loss(batch, None)[0])(build())
    fusion, towers = grads.fusion, grads.towers
    for part in (fusion.maps[0], fusion.maps[1], fusion.position, fusion.kinds, fusion.stack, *towers.values()):
        assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(part)) > 0


def test_an_answer_alone_can_be_encoded(batch):
    assert set(build().encode({"answer": batch["answer"]})) == {"answer"}


def test_unknown_inputs_and_uneven_lists_are_errors():
    with pytest.raises(ConfigError, match=r"task\.fusion\.of: unknown input 'imgae'; did you mean 'image'"):
        build(fusion={**PART["fusion"], "of": ["imgae", "text"]})
    with pytest.raises(ConfigError, match="2 inputs, 1 lengths and 2 widths"):
        build(fusion={**PART["fusion"], "lengths": [4]})


def test_eight_devices_train_as_one():
    part = {**PART, "losses": [{"kind": "infonce", "of": ["fused", "text"]}], "normalize": True}
    part["fusion"] = {**part["fusion"], "embed_dim": 16}
    part["towers"] = {name: part["towers"][name] for name in ("image", "text")}
    one, eight = Problem(part).train(3), Problem(part).train(3, make_mesh(data=2, fsdp=2, tensor=2))
    assert_close(eight[1], one[1], 1e-4)
    assert_close(eight[0].params, one[0].params, 1e-3)

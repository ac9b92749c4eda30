"""Towers pooled by a codebook."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bigcl import registry
from bigcl.losses import infonce
from bigcl.mesh import make_mesh
from bigcl.registry import ConfigError
from bigcl.towers.codebook import sparsemax
from tests.problems import BATCH, Problem, assert_close

PART = {
    "kind": "finite_tokens",
    "towers": {
        "image": {"kind": "vit", "image_size": 16, "patch": 8, "width": 32, "depth": 1, "heads": 2},
        "text": {"kind": "token_mlp", "length": 6, "vocab": 128, "width": 12},
    },
    "codebook": {"codes": 20, "width": 8, "temperature": 0.7},
}


def build(**options):
    return registry.build("task", {**PART, **options}, batch_size=BATCH, rngs=nnx.Rngs(0))


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (BATCH, 16, 16, 3), np.uint8)),
        "text": jnp.asarray(rng.integers(0, 128, (BATCH, 6), np.int32)),
        "text_mask": jnp.asarray(rng.random((BATCH, 6)) < 0.7),
    }


def test_embeddings_are_mixtures_of_the_shared_codes(batch):
    """Each example by itself, token by token, from the towers' own tokens."""
    task = build()
    z = task.encode(batch)
    codes = task.codebook.codes[...]
    for name in ("image", "text"):
        encoding = task.towers[name](batch[name], batch.get(f"{name}_mask"))
        for i in range(4):
            scores = []
            for n, query in enumerate(task.queries[name](encoding.tokens[i][None])[0]):
                real = encoding.mask is None or bool(encoding.mask[i, n])
                scores.append(np.asarray(codes @ query) / np.sqrt(8) / 0.7 * real)
            mixed = sparsemax(jnp.asarray(np.max(scores, 0), jnp.float32)) @ codes
            np.testing.assert_allclose(z[name][i], mixed / jnp.linalg.norm(mixed), atol=1e-5)
    value, metrics = task.loss(batch, None)
    np.testing.assert_allclose(value, infonce(z["image"], z["text"], metrics["logit_scale"]), rtol=1e-5)


def test_codes_queries_and_towers_all_learn(batch):
    grads = nnx.grad(lambda task: task.loss(batch, None)[0])(build(codebook={"codes": 20, "width": 8}))
    for part in (grads.codebook.codes, grads.queries, grads.towers["image"].stack, grads.towers["text"].embed):
        assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(part)) > 0


def test_shared_towers_share_their_query_map(batch):
    task = build(towers={"a": PART["towers"]["text"], "b": "a"})
    assert set(task.queries) == {"a"}
    z = task.encode({"a": batch["text"], "b": batch["text"]})
    np.testing.assert_array_equal(z["a"], z["b"])


def test_a_tower_without_tokens_is_an_error():
    with pytest.raises(ConfigError, match=r"task\.towers\.image: a codebook pools tokens, and this tower gives none"):
        build(towers={"image": {"kind": "mlp", "inputs": 3, "widths": [4]}, "text": PART["towers"]["text"]})


def test_eight_devices_train_as_one():
    one, eight = Problem(PART).train(3), Problem(PART).train(3, make_mesh(data=2, fsdp=2, tensor=2))
    assert_close(eight[1], one[1], 1e-4)
    assert_close(eight[0].params, one[0].params, 1e-3)

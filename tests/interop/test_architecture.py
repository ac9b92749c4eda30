"""The towers are those of OpenAI CLIP and of SigLIP: the weights of transformers or open_clip give the same features, logits, loss and gradients here."""

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bigcl.losses import l2_normalize
from bigcl.state import Skeleton
from bigcl.tasks.two_tower import TwoTower

for package in ("torch", "transformers", "open_clip"):
    pytest.importorskip(package, reason=f"compares with {package}: pip install '.[interop-test]'")

import torch  # noqa: E402

from tests.interop import mapping, reference  # noqa: E402

Outputs = dict[str, np.ndarray]

OUTPUT_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4


class Comparison(NamedTuple):
    """A reference with its inputs, and what it says of them: outputs, and its weights and their gradients as bigcl's arrays."""

    reference: reference.Reference
    batch: dict[str, np.ndarray]
    outputs: Outputs
    weights: Outputs
    gradients: Outputs


@pytest.fixture(scope="module", params=list(reference.REFERENCES))
def comparison(request) -> Comparison:
    return compare(request.param)


def compare(name: str) -> Comparison:
    built = reference.REFERENCES[name]()
    reference.randomize(built, seed=0)
    batch = reference.inputs(built, seed=1)
    images, text = torch.from_numpy(batch["image"]).permute(0, 3, 1, 2), torch.from_numpy(batch["text"]).long()
    outputs = built.run(built.model.eval(), images, text)
    outputs["loss"].backward()
    shapes = {path: array.shape for path, array in skeleton(built.towers, built.loss)[1].items()}
    weights, gradients = (
        mapping.translate({n: pick(w).detach().numpy() for n, w in built.model.named_parameters()}, built.table, shapes)
        for pick in (lambda w: w, lambda w: w.grad)
    )
    return Comparison(built, batch, {k: v.detach().numpy() for k, v in outputs.items()}, weights, gradients)


def skeleton(towers: Mapping[str, Any], loss: str) -> tuple[Skeleton, dict[str, jax.Array], dict[str, jax.Array]]:
    task = TwoTower(towers=towers, losses=[{"kind": loss, "of": ["image", "text"]}], batch_size=5, rngs=nnx.Rngs(0))
    frame = Skeleton(task)
    return frame, *frame.split(task)


def run(towers: Mapping[str, Any], loss: str, weights: Outputs, batch: dict[str, np.ndarray]) -> tuple[Outputs, Outputs]:
    """What bigcl says: outputs, and gradients of the loss with respect to every parameter."""
    frame, _, extra = skeleton(towers, loss)

    def forward(weights, batch):
        task = frame.merge(weights, extra)
        value, _ = task.loss(batch, None)
        features = {name: task.towers[name](batch[name]).embedding for name in ("image", "text")}
        logits = jnp.exp(task.log_scale[...]) * l2_normalize(features["image"]) @ l2_normalize(features["text"]).T
        return value, {**features, "logits": logits if task.bias is None else logits + task.bias[...], "loss": value}

    (_, outputs), gradients = jax.jit(jax.value_and_grad(forward, has_aux=True))(*jax.tree.map(jnp.asarray, (weights, batch)))
    return jax.tree.map(np.asarray, (outputs, gradients))


def errors(actual: Outputs, expected: Outputs) -> dict[str, float]:
    """The largest error in each array, relative to the array's largest number."""
    assert actual.keys() == expected.keys()
    assert all(actual[k].shape == expected[k].shape for k in expected)
    return {k: float(np.abs(actual[k] - expected[k]).max() / np.abs(expected[k]).max()) for k in expected}


def test_same_outputs_and_gradients(comparison):
    outputs, gradients = run(comparison.reference.towers, comparison.reference.loss, comparison.weights, comparison.batch)
    wrong = {k: e for k, e in errors(outputs, comparison.outputs).items() if e > OUTPUT_TOLERANCE}
    assert not wrong
    wrong = {k: e for k, e in errors(gradients, comparison.gradients).items() if e > GRADIENT_TOLERANCE}
    assert not wrong

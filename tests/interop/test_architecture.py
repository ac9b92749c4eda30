"""The towers are those of OpenAI CLIP and of SigLIP.

With the weights of models of transformers and open_clip they give the same features, logits, loss and gradients.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bigcl import registry
from bigcl.losses import l2_normalize
from bigcl.state import Skeleton
from bigcl.tasks.two_tower import TwoTower

for package in ("torch", "transformers", "open_clip"):
    pytest.importorskip(package, reason=f"compares with {package}: pip install '.[interop-test]'")

import torch  # noqa: E402

from bigcl.interop.table import read  # noqa: E402
from tests.interop import reference  # noqa: E402

Arrays = dict[str, np.ndarray]

OUTPUT_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4
"""Largest error in an array, relative to its largest number. Found: 2e-6 and 2e-5."""


class Comparison(NamedTuple):
    """A reference, its inputs, and what it makes of them; its weights and gradients as bigcl's arrays."""

    reference: reference.Reference
    skeleton: Skeleton
    batch: Arrays
    outputs: Arrays
    weights: Arrays
    gradients: Arrays


@functools.cache
def compare(name: str) -> Comparison:
    built = reference.REFERENCES[name]()
    reference.randomize(built, seed=0)
    batch = reference.inputs(built, seed=1)
    images, text = torch.from_numpy(batch["image"]).permute(0, 3, 1, 2), torch.from_numpy(batch["text"]).long()
    outputs = built.run(built.model.eval(), images, text)
    outputs["loss"].backward()

    losses = [{"kind": built.loss, "of": ["image", "text"]}]
    task = nnx.eval_shape(
        lambda: TwoTower(towers=built.towers, losses=losses, batch_size=len(images), rngs=nnx.Rngs(0))
    )
    skeleton = Skeleton(task)
    shapes = {path: array.shape for path, array in skeleton.split(task)[0].items()}
    tensors = dict(built.model.named_parameters())
    weights = read(built.table, {name: w.detach().numpy() for name, w in tensors.items()}, shapes, where=name)
    gradients = read(built.table, {name: w.grad.numpy() for name, w in tensors.items()}, shapes, where=name)
    return Comparison(
        built, skeleton, batch, {name: x.detach().numpy() for name, x in outputs.items()}, weights, gradients
    )


def run(skeleton: Skeleton, weights: Arrays, batch: Arrays) -> tuple[Arrays, Arrays]:
    """What bigcl makes of weights and inputs: outputs, and gradients of the loss with respect to every parameter."""

    def forward(weights: dict[str, jax.Array], batch: dict[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
        task = skeleton.merge(weights, {})
        loss, _ = task.loss(batch, None)
        image, text = (task.towers[name](batch[name]).embedding for name in ("image", "text"))
        logits = jnp.exp(task.log_scale[...]) * l2_normalize(image) @ l2_normalize(text).T
        return loss, {
            "image": image,
            "text": text,
            "logits": logits if task.bias is None else logits + task.bias[...],
            "loss": loss,
        }

    (_, outputs), gradients = jax.jit(jax.value_and_grad(forward, has_aux=True))(
        *jax.tree.map(jnp.asarray, (weights, batch))
    )
    return jax.tree.map(np.asarray, (outputs, gradients))


def embed(tower: Mapping[str, Any], weights: Arrays, inputs: np.ndarray) -> np.ndarray:
    """The embedding of one tower alone, with its part of a task's weights."""
    module = nnx.eval_shape(lambda: registry.build("tower", tower, rngs=nnx.Rngs(0)))
    skeleton = Skeleton(module)
    return np.asarray(
        jax.jit(lambda weights, x: skeleton.merge(weights, {})(x).embedding)(weights, jnp.asarray(inputs))
    )


def error(actual: np.ndarray, expected: np.ndarray) -> float:
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("name", reference.REFERENCES)
def test_same_outputs_and_gradients(name):
    """Features before normalisation, logits, loss; gradients of every parameter."""
    compared = compare(name)
    outputs, gradients = run(compared.skeleton, compared.weights, compared.batch)
    for of, expected in compared.outputs.items():
        assert error(outputs[of], expected) < OUTPUT_TOLERANCE, of
    for path, expected in compared.gradients.items():
        assert error(gradients[path], expected) < GRADIENT_TOLERANCE, path


@pytest.mark.parametrize(
    ("name", "tower", "change"),
    [
        ("transformers-clip-quick_gelu", "image", {"activation": "gelu"}),
        ("transformers-clip-quick_gelu", "image", {"norm_eps": 1e-6}),
        ("transformers-clip-quick_gelu", "text", {"norm_eps": 1e-6}),
        ("transformers-clip-quick_gelu", "text", {"causal": False}),
        ("transformers-clip-quick_gelu", "text", {"pool": "last"}),
        ("transformers-siglip", "image", {"activation": "gelu"}),
        ("transformers-siglip", "image", {"norm_eps": 1e-5}),
        ("transformers-siglip", "text", {"norm_eps": 1e-5}),
        ("transformers-siglip", "text", {"causal": True}),
        ("transformers-siglip", "text", {"pool": "eot"}),
        ("transformers-siglip", "text", {"pad_id": 1}),
    ],
)
def test_each_convention_shows(name, tower, change):
    """The comparison is sharp: any one convention exchanged for its neighbour is outside the tolerance by far."""
    compared = compare(name)
    prefix = f"towers/{tower}/"
    weights = {path.removeprefix(prefix): w for path, w in compared.weights.items() if path.startswith(prefix)}
    embedding = embed({**compared.reference.towers[tower], **change}, weights, compared.batch[tower])
    assert error(embedding, compared.outputs[tower]) > 3 * OUTPUT_TOLERANCE

"""Small tasks, their batches, and a few steps of training, for the tests that train."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from bigcl import registry
from bigcl.mesh import batch_sharding, place, replicated
from bigcl.state import Skeleton, TrainState, init_state, make_step

BATCH = 16

MLPS = {
    "kind": "two_tower",
    "towers": {"a": {"kind": "mlp", "inputs": 6, "widths": [8, 5]}, "b": {"kind": "mlp", "inputs": 3, "widths": [5]}},
}
"""Compiles in no time."""

SMALL = {"width": 32, "depth": 2, "heads": 2, "mlp_width": 64, "embed_dim": 16, "dropout": 0.1}
TRANSFORMERS = {
    "kind": "two_tower",
    "towers": {
        "image": {"kind": "vit", "image_size": 16, "patch": 4, "pool": "map", "patch_dropout": 0.5, **SMALL},
        "text": {"kind": "text", "vocab": 128, "length": 6, "remat": "nothing_saveable", **SMALL},
    },
    "losses": [
        {"kind": "infonce", "of": ["image", "text"]},
        {"kind": "sigmoid", "of": ["image", "text"], "weight": 0.3},
    ],
}
"""Every kind of parameter that is sharded, each large enough for it, and everything random that a step has."""


def batches(steps: int, seed: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Global batches with all inputs of the tasks above."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        yield {
            "a": rng.normal(size=(BATCH, 6)).astype(np.float32),
            "b": rng.normal(size=(BATCH, 3)).astype(np.float32),
            "image": rng.integers(0, 256, (BATCH, 16, 16, 3), np.uint8),
            "text": rng.integers(0, 128, (BATCH, 6), np.int32),
        }


class Problem:
    """A task with an optimizer. frozen: prefixes of the paths that are not trained."""

    def __init__(
        self, part: Mapping[str, Any], *, ema: float | None = 0.9, frozen: tuple[str, ...] = (), lr: float = 0.1
    ):
        self.build = functools.partial(registry.build, "task", part, batch_size=BATCH)
        task = nnx.eval_shape(lambda: self.build(rngs=nnx.Rngs(0)))
        self.inputs, self.ema, self.skeleton = set(task.inputs), ema, Skeleton(task)
        self.shapes = self.skeleton.split(task)[0]
        self.trainable = frozenset(k for k in self.shapes if not k.startswith(frozen or ("-",)))
        self.tx = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(lr, momentum=0.9))
        self.step = make_step(self.skeleton, self.tx, self.trainable, ema)

    def new(self) -> TrainState:
        """The state before the first step; to be run under `jit`."""
        task = self.build(rngs=nnx.Rngs(0))
        return init_state(task, self.skeleton, self.tx, self.trainable, ema=self.ema is not None, seed=1)

    def shardings(self, mesh: Mesh) -> TrainState:
        """Where the state lies: what belongs to a parameter where the parameter lies, all else everywhere."""
        where = place(self.shapes, mesh)

        def of(path: Any, _: Any) -> Any:
            name = next((k.key for k in path if getattr(k, "key", None) in where), None)
            return where.get(name, replicated(mesh))

        return jax.tree_util.tree_map_with_path(of, jax.eval_shape(self.new))

    def batch(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What the task reads of a batch."""
        return {k: v for k, v in batch.items() if k in self.inputs}

    def train(self, steps: int, mesh: Mesh | None = None) -> tuple[TrainState, list[dict[str, Any]]]:
        """The state after some steps and the metrics of each, on a mesh or on one device."""
        if mesh is None:
            state, step = jax.jit(self.new)(), jax.jit(self.step)
            metrics = []
            for batch in batches(steps):
                state, values = step(state, self.batch(batch))
                metrics.append(jax.device_get(values))
            return state, metrics
        with jax.set_mesh(mesh):
            return self.train_on_mesh(steps, mesh)

    def train_on_mesh(self, steps: int, mesh: Mesh) -> tuple[TrainState, list[dict[str, Any]]]:
        """The same with every array in its place; each process puts its own rows of the batch."""
        shardings, rows, whole = self.shardings(mesh), batch_sharding(mesh), replicated(mesh)
        state = jax.jit(self.new, out_shardings=shardings)()
        step = jax.jit(self.step, donate_argnums=0, out_shardings=(shardings, whole))
        mine = slice(
            jax.process_index() * BATCH // jax.process_count(), (jax.process_index() + 1) * BATCH // jax.process_count()
        )
        metrics = []
        for batch in batches(steps):
            local = {k: v[mine] for k, v in self.batch(batch).items()}
            state, values = step(state, {k: jax.make_array_from_process_local_data(rows, v) for k, v in local.items()})
            metrics.append(jax.device_get(values))
        return state, metrics


def assert_close(got: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Equal trees of arrays, up to the tolerance times each array's largest magnitude (at least 1e-2)."""
    got, expected = (dict(jax.tree_util.tree_leaves_with_path(tree)) for tree in (got, expected))
    assert got.keys() == expected.keys()
    for path, value in expected.items():
        value = np.asarray(value)
        scale = max(1e-2, float(np.abs(value).max(initial=0)))
        np.testing.assert_allclose(got[path], value, rtol=0, atol=tolerance * scale, err_msg=jax.tree_util.keystr(path))

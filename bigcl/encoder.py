"""A host batch to embeddings, with parameters that lie on a mesh."""

from collections.abc import Callable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, PartitionSpec

from bigcl.mesh import BATCH_AXES, batch_sharding
from bigcl.state import Arrays, Skeleton
from bigcl.tasks.task import Batch

EncodeGlobal = Callable[[Arrays, Arrays, Batch], dict[str, jax.Array]]


def compile_encoder(
    skeleton: Skeleton, mesh: Mesh, prepare: Callable[[Batch], Batch] = lambda batch: batch
) -> EncodeGlobal:
    """A compiled function of parameters, other arrays and a global batch. prepare: what is done to the batch first."""
    return jax.jit(
        lambda params, extra, batch: skeleton.merge(params, extra).encode(prepare(batch)),
        out_shardings=batch_sharding(mesh),
    )


def compute_dtype(choice: Literal["auto", "float32", "bfloat16"], mesh: Mesh) -> jnp.dtype:
    """What towers compute in; "auto" is float32 on CPU, which has no faster type, and bfloat16 elsewhere."""
    auto = "float32" if mesh.devices.flat[0].platform == "cpu" else "bfloat16"
    return jnp.dtype(auto if choice == "auto" else choice)


class Encoder:
    """Host batch -> this process's embeddings of length 1, float32 `[b, D]`, by input.

    Batches may have any number of rows, the same on every process: they are padded to what the devices divide.

    scale: the inverse temperature that the model was trained to, where it has one; for evaluators that need
        probabilities.
    """

    def __init__(self, encode: EncodeGlobal, mesh: Mesh, params: Arrays, extra: Arrays):
        self.encode, self.mesh, self.params, self.extra = encode, mesh, params, extra
        self.local = max(1, mesh.devices.size // mesh.shape["tensor"] // jax.process_count())
        self.scale = float(np.exp(np.asarray(params["log_scale"]))) if "log_scale" in params else None

    def start(self, batch: Mapping[str, np.ndarray]) -> Callable[[], dict[str, np.ndarray]]:
        """Hands a batch to the devices and returns at once; what is returned waits for the embeddings."""
        rows = len(next(iter(batch.values())))
        padding = -rows % self.local
        padded = {k: np.concatenate([v, np.repeat(v[-1:], padding, axis=0)]) for k, v in batch.items()}
        sharding = batch_sharding(self.mesh)
        inputs = {k: jax.make_array_from_process_local_data(sharding, v) for k, v in padded.items()}
        with jax.set_mesh(self.mesh):
            outputs = self.encode(self.params, self.extra, inputs)
        spec = PartitionSpec(BATCH_AXES)
        return lambda: {
            k: np.asarray(multihost_utils.global_array_to_host_local_array(v, self.mesh, spec))[:rows]
            for k, v in outputs.items()
        }

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self.start(batch)()

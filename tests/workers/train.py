"""One of the processes of tests/test_two_processes.py: `train.py COORDINATOR PROCESS RESULT`."""

import itertools
import sys

import jax
import numpy as np
from jax.experimental import multihost_utils

from bigcl.host import gathered
from bigcl.losses import streaming
from bigcl.mesh import batch_sharding, make_mesh, replicated
from bigcl.state import make_step
from tests.problems import TRANSFORMERS, Problem
from tests.test_two_processes import EXCHANGES, LOSSES, PROCESSES, STEPS, embeddings


def main(coordinator: str, process: int, result: str) -> None:
    """Writes value and gradients of each loss, and state and metrics after some steps; process 0 alone writes."""
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(coordinator, num_processes=PROCESSES, process_id=process)
    assert (jax.process_count(), jax.device_count(), jax.local_device_count()) == (PROCESSES, 2 * PROCESSES, 2)
    found = {}
    mesh = make_mesh(data=2, fsdp=2)
    rows, whole = batch_sharding(mesh), replicated(mesh)
    za, zb, scale, bias = embeddings()
    local = slice(process * len(za) // PROCESSES, (process + 1) * len(za) // PROCESSES)
    sides = [jax.make_array_from_process_local_data(rows, z[local]) for z in (za, zb)]
    scalars = [jax.make_array_from_process_local_data(whole, x) for x in (scale, bias)]
    for (name, loss), (exchange, limit) in itertools.product(LOSSES.items(), EXCHANGES.items()):
        streaming.GATHER_BYTES = limit
        jax.clear_caches()  # tracing has seen the other limit
        with jax.set_mesh(mesh):
            step = jax.jit(
                jax.value_and_grad(loss, argnums=(0, 1, 2, 3)), out_shardings=(whole, (rows, rows, whole, whole))
            )
            value = step(*sides, *scalars)
        for i, x in enumerate(jax.tree.leaves(multihost_utils.process_allgather(value, tiled=True))):
            found[f"{name}-{exchange}/{i}"] = x
    problem = Problem(TRANSFORMERS)
    pieces = make_step(problem.skeleton, problem.tx, problem.trainable, problem.ema, microbatch=8)
    for name, step, limit in (("train", problem.step, EXCHANGES["gather"]), ("pieces", pieces, EXCHANGES["ring"])):
        streaming.GATHER_BYTES, problem.step = limit, step
        state, metrics = problem.train(STEPS, mesh)
        for i, x in enumerate(jax.tree.leaves((multihost_utils.process_allgather(state, tiled=True), metrics))):
            found[f"{name}/{i}"] = x
    for name, data in {"said": b"abc" * process, "silent": b""}.items():
        for i, part in enumerate(gathered(data)):
            found[f"{name}/{i}"] = np.frombuffer(part, np.uint8)
    if process == 0:
        with open(result, "wb") as file:
            np.savez(file, **found)
    multihost_utils.sync_global_devices("written")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])

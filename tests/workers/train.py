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
from tests.test_two_processes import EXCHANGES, LOSSES, PROCESSES, STEPS, inputs


def main(coordinator: str, process: int, result: str) -> None:
    """Writes value and gradients of each loss, and state and metrics after some steps; process 0 alone writes."""
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(coordinator, num_processes=PROCESSES, process_id=process)
    assert (jax.process_count(), jax.device_count(), jax.local_device_count()) == (PROCESSES, 2 * PROCESSES, 2)
    found = {}
    mesh = make_mesh(data=2, fsdp=2)
    rows, whole = batch_sharding(mesh), replicated(mesh)
    own = lambda x: np.split(x, PROCESSES)[process]  # noqa: E731
    place = jax.make_array_from_process_local_data
    arguments = jax.tree.map(lambda x: place(rows, own(x)) if x.ndim else place(whole, x), inputs())
    for (name, loss), (exchange, limit) in itertools.product(LOSSES.items(), EXCHANGES.items()):
        streaming.GATHER_BYTES = limit
        jax.clear_caches()  # tracing has seen the other limit
        with jax.set_mesh(mesh):
            gradient = jax.value_and_grad(loss, argnums=range(5))
            value = jax.jit(gradient, out_shardings=(whole, (rows, rows, rows, whole, whole)))(*arguments)
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

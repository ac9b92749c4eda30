"""One of the processes of tests/test_outcome.py: `save.py COORDINATOR PROCESS RESULT`."""

import json
import pathlib
import resource
import sys

import jax
import numpy as np

from bigcl.checkpoint import Checkpoints
from bigcl.mesh import make_mesh
from tests.test_outcome import TRIALS
from tests.test_two_processes import PROCESSES, TIMEOUT


def main(coordinator: str, process: int, result: str) -> None:
    """Saves, with no room on the disk of one process, then with room; writes what this one was told."""
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(coordinator, num_processes=PROCESSES, process_id=process)
    split = jax.sharding.NamedSharding(make_mesh(fsdp=2 * PROCESSES), jax.sharding.PartitionSpec("fsdp"))
    x = np.arange(4096, dtype=np.float32)
    state = {"x": jax.make_array_from_callback(x.shape, split, lambda index: x[index])}
    checkpoints = Checkpoints(pathlib.Path(result).parent / "checkpoints", keep_every=1, deadline=10 * TIMEOUT)
    told, unlimited = [], resource.getrlimit(resource.RLIMIT_FSIZE)
    for step, full in enumerate(TRIALS, 1):
        if process in full:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, unlimited[1]))
        checkpoints.save(step, state)
        reason = checkpoints.settle()
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        told.append([reason, checkpoints.steps(), checkpoints.latest()])
    restored = checkpoints.restore(state)
    told.append(all((part.data == x[part.index]).all() for part in restored["x"].addressable_shards))
    checkpoints.close()
    pathlib.Path(f"{result}-{process}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])

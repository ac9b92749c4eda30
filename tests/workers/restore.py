"""One of the processes of tests/test_outcome.py: `restore.py COORDINATOR PROCESS RESULT`."""

import json
import pathlib
import sys

import jax
import numpy as np

from bigcl.checkpoint import Checkpoints
from bigcl.mesh import make_mesh
from tests.test_two_processes import PROCESSES


def main(coordinator: str, process: int, result: str) -> None:
    """Saves two steps, damages what the second process wrote of the later one, and restores; writes which values this
    process got back."""
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(coordinator, num_processes=PROCESSES, process_id=process)
    split = jax.sharding.NamedSharding(make_mesh(fsdp=2 * PROCESSES), jax.sharding.PartitionSpec("fsdp"))
    folder = pathlib.Path(result).parent / "checkpoints"
    checkpoints = Checkpoints(folder)
    x = np.random.default_rng(0).normal(size=65536).astype(np.float32)  # does not compress
    state = {"x": jax.make_array_from_callback(x.shape, split, lambda index: x[index])}
    later = {"x": state["x"] + 1}
    checkpoints.save(1, state)
    checkpoints.save(2, later)
    checkpoints.close()
    if process == 0:
        written = [p for p in (folder / "2").glob("default/ocdbt.process_1/d/*")]
        largest = max(written, key=lambda p: p.stat().st_size)
        largest.write_bytes(largest.read_bytes()[:1000])
    checkpoints = Checkpoints(folder)
    restored = checkpoints.restore_newest(state)
    same = all((part.data == x[part.index]).all() for part in restored["x"].addressable_shards)
    pathlib.Path(f"{result}-{process}.json").write_text(json.dumps([bool(same), checkpoints.steps()]))
    checkpoints.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])

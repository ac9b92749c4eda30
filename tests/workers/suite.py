"""One of the processes of tests/test_suite.py: `suite.py COORDINATOR PROCESS RESULT`."""

import json
import pathlib
import sys

import jax

from bigcl.mesh import make_mesh
from bigcl.suite import run_suite
from tests.test_suite import encode, members
from tests.test_two_processes import PROCESSES


def main(coordinator: str, process: int, folder: pathlib.Path) -> None:
    """Runs the suite twice into the folder; each process writes what it got, and how many rows it embedded."""
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(coordinator, num_processes=PROCESSES, process_id=process)
    rows = 0

    def counting(batch):
        nonlocal rows
        rows += len(batch["image"])
        return encode(batch)

    found, embedded = [], []
    for _ in range(2):
        before = rows
        found.append(run_suite(members(), counting, folder, model={}, mesh=make_mesh(), tokenizer=None)[0])
        embedded.append(rows - before)
    said = folder / "said" / f"{process}.json"
    said.parent.mkdir(parents=True, exist_ok=True)
    said.write_text(json.dumps({"found": found[0], "again": found[1], "embedded": embedded}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3]))

"""What must be settled before JAX starts: the allocator on CPU, the compilation cache."""

import os
import pathlib
import sys

ALLOCATOR = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
}
"""XLA allocates the temporaries of each CPU step anew. With 4 KiB pages a small training step spends a third of its
time in page faults; with huge pages, none."""


def prepare() -> None:
    """Starts the program again with huge pages for malloc, if it is going to compute on a CPU under Linux; once, and
    before anything is imported."""
    on_cpu = os.environ.get("JAX_PLATFORMS", "") == "cpu" or not (
        pathlib.Path("/dev/accel0").exists() or pathlib.Path("/dev/nvidiactl").exists()
    )
    if sys.platform != "linux" or not on_cpu or "GLIBC_TUNABLES" in os.environ:
        return
    os.environ.update(ALLOCATOR)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def configure_jax() -> None:
    """Compiled programs are kept between runs."""
    import jax

    from bigcl.data.cache import cache_root

    if not jax.config.values["jax_compilation_cache_dir"]:
        jax.config.update("jax_compilation_cache_dir", str(cache_root() / "xla"))


def join_cluster() -> None:
    """Joins the other processes of the job, where the environment says that there are any; before any device is
    touched.

    `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` name them outright; under Slurm, Open MPI and on
    TPU pods JAX finds them itself.
    """
    import jax

    env = os.environ
    if "JAX_COORDINATOR_ADDRESS" in env:
        jax.distributed.initialize(
            env["JAX_COORDINATOR_ADDRESS"], int(env["JAX_NUM_PROCESSES"]), int(env["JAX_PROCESS_ID"])
        )
    elif (
        int(env.get("SLURM_NTASKS", 1)) > 1
        or int(env.get("OMPI_COMM_WORLD_SIZE", 1)) > 1
        or "," in env.get("TPU_WORKER_HOSTNAMES", "")
    ):
        jax.distributed.initialize()


def agreed(value: bool) -> bool:
    """What the first process says, on all of them; each must call."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    return value if jax.process_count() == 1 else bool(multihost_utils.broadcast_one_to_all(np.array(value)))

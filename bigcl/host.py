"""What must be settled before JAX starts: the allocator on CPU, the compilation cache."""

import os
import pathlib
import sys

REQUEUE = 75
"""The exit status of a process that was asked to stop, has saved, and is to be started again (EX_TEMPFAIL): launchers
do so and count no crash."""

ALLOCATOR = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
}
"""XLA allocates the temporaries of each CPU step anew. With 4 KiB pages a small training step spends a third of its
time in page faults; with huge pages, none."""


ONE_BY_ONE = "--xla_cpu_enable_concurrency_optimized_scheduler=false"
"""Else two exchanges of one program run side by side, each holding a thread that the other process waits for."""


def prepare() -> None:
    """Before anything is imported: on a CPU, keeps the exchanges of a program in one order, and under Linux starts the
    program again, once, with huge pages for malloc."""
    if on_cpu() and ONE_BY_ONE not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {ONE_BY_ONE}".strip()
    if sys.platform != "linux" or not on_cpu() or "GLIBC_TUNABLES" in os.environ:
        return
    os.environ.update(ALLOCATOR)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def on_cpu() -> bool:
    """Whether JAX is going to compute on a CPU."""
    accelerators = (pathlib.Path("/dev/accel0"), pathlib.Path("/dev/nvidiactl"))
    return os.environ.get("JAX_PLATFORMS", "") == "cpu" or not any(p.exists() for p in accelerators)


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


def gathered(data: bytes) -> list[bytes]:
    """What every process says, in their order, on all of them; each must call."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return [data]
    sizes = multihost_utils.process_allgather(np.array(len(data), np.int32))
    padded = np.frombuffer(data.ljust(int(sizes.max()), b"\0"), np.uint8)
    parts = multihost_utils.process_allgather(padded) if sizes.max() else padded.reshape(1, 0).repeat(len(sizes), 0)
    return [part[:size].tobytes() for part, size in zip(parts, sizes.tolist(), strict=True)]


def agreed(value: bool) -> bool:
    """What the first process says, on all of them; each must call."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    return value if jax.process_count() == 1 else bool(multihost_utils.broadcast_one_to_all(np.array(value)))


def everywhere(value: bool) -> bool:
    """Whether all processes say so; each must call."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    return value if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(value)).all())

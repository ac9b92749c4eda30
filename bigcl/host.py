"""What must be settled before a run starts: the allocator on CPU, the compilation cache, the other processes."""

import atexit
import contextlib
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import os
import pathlib
import platform
import re
import signal
import stat
import sys
from collections.abc import Iterator, Mapping
from typing import Any

REQUEUE = 75
"""The exit status of a process that was asked to stop, has saved, and is to be started again (EX_TEMPFAIL): launchers
do so and count no crash."""

ALLOCATOR = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
}
"""XLA allocates the temporaries of each CPU step anew. With 4 KiB pages a small training step spends a third of its
time in page faults, with huge pages some hundredths, and none if malloc keeps them: of the arenas that threads have of
their own it does not, whatever it is told, so there is one."""

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")

ONE_BY_ONE = "--xla_cpu_enable_concurrency_optimized_scheduler=false"


def prepare() -> None:
    """Before anything is imported: on a CPU, keeps the exchanges between devices in one order, and under Linux starts
    the program again, once, with huge pages for malloc. And `end_with_reader`."""
    end_with_reader()
    env = os.environ
    # Where there is no TPU, libtpu's profiler crashes. Whatever might be an accelerator is left to JAX.
    some = device_files("accel*", "vfio/[0-9]*", "nvidiactl", "kfd") or any(k.startswith("TPU_") for k in env)
    if importlib.util.find_spec("libtpu") and not some:
        env.setdefault("JAX_PLATFORMS", "cpu")
    emulated = env.get("JAX_NUM_CPU_DEVICES", "1") != "1" or "host_platform_device_count" in env.get("XLA_FLAGS", "")
    if on_cpu() and (emulated or "JAX_COORDINATOR_ADDRESS" in env or several_processes(env)):
        env.update(several_devices(env))
    if sys.platform != "linux" or not on_cpu() or "GLIBC_TUNABLES" in env:
        return
    os.environ.update(ALLOCATOR)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


UNREAD = 128 + signal.SIGPIPE if hasattr(signal, "SIGPIPE") else 1
"""The exit status of a process whose output nobody reads any more, as shells have it."""


class Pipe(io.FileIO):
    """Standard output that ends the process, without a word, when its reader has gone."""

    gone = False

    def write(self, b: Any, /) -> int:
        try:
            return super().write(b)
        except BrokenPipeError:
            self.gone = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())  # for what is still printed until the end
            raise SystemExit(UNREAD) from None


def end_with_reader() -> None:
    """For commands whose output goes to `head` and the like. The signal itself is left alone: it would end a process
    for a lost connection as well."""
    out = sys.stdout
    if not isinstance(out, io.TextIOWrapper) or not stat.S_ISFIFO(os.fstat(out.fileno()).st_mode):
        return
    pipe = Pipe(out.fileno(), "w", closefd=False)
    buffer: Any = pipe if out.write_through else io.BufferedWriter(pipe)  # python -u has none
    lines: dict[str, Any] = {"line_buffering": out.line_buffering, "write_through": out.write_through}
    sys.stdout = io.TextIOWrapper(buffer, out.encoding, out.errors, **lines)
    atexit.register(flush_last, pipe)


def flush_last(pipe: Pipe) -> None:
    """The interpreter flushes at the end too, and either complains or forgets the status."""
    with contextlib.suppress(SystemExit):
        sys.stdout.flush()
    if pipe.gone:
        os._exit(UNREAD)


def several_devices(env: Mapping[str, str]) -> dict[str, str]:
    """What to set in the environment of a process whose CPU is, or is one of, several devices. Of one program two
    exchanges may run side by side, each holding a thread until all devices take part: fewer do so in the order of the
    program, and with threads to spare none of them keeps the last device from its first."""
    return {
        "XLA_FLAGS": f"{env.get('XLA_FLAGS', '').replace(ONE_BY_ONE, '')} {ONE_BY_ONE}".strip(),
        "PJRT_NPROC": env.get("PJRT_NPROC", str(max(64, os.cpu_count() or 1))),
    }


def on_cpu() -> bool:
    """Whether JAX is going to compute on a CPU."""
    return os.environ.get("JAX_PLATFORMS", "") == "cpu" or not accelerators()


def accelerators() -> bool:
    """Whether this machine surely has TPUs or GPUs that JAX computes on. (Others, such as the NPU of a laptop, have
    files as well, of other names.)"""
    return device_files("accel0", "nvidiactl")


def device_files(*names: str) -> bool:
    """Whether drivers have made any of these files; a name may be a glob."""
    return any(any(pathlib.Path("/dev").glob(name)) for name in names)


def configure_jax() -> None:
    """Compiled programs are kept between runs."""
    import jax

    from bigcl.data.cache import cache_root

    if not jax.config.values["jax_compilation_cache_dir"]:
        jax.config.update("jax_compilation_cache_dir", str(cache_root() / "xla"))


def join_cluster(seconds: float = 300.0) -> None:
    """Joins the other processes of the job, where the environment says that there are any, and sees to it that the
    devices are there.

    seconds: to wait for those that are late.

    `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` name the others outright; under Slurm, Open MPI
    and on TPU slices JAX finds them itself. Raises ConfigError for a job that could only hang or run on the wrong
    devices; JAX ends the process if not all come in time.
    """
    import jax

    from bigcl.registry import ConfigError
    from bigcl.watchdog import HEARTBEAT, PARTING

    jax.config.update("jax_enable_preemption_service", False)  # it takes SIGTERM for itself, at some time from here on
    env = os.environ
    timeouts: dict[str, Any] = {
        "initialization_timeout": max(1, int(seconds)),
        "heartbeat_timeout_seconds": HEARTBEAT,
        "shutdown_timeout_seconds": PARTING,
    }
    if address := env.get("JAX_COORDINATOR_ADDRESS"):
        if missing := [k for k in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID") if not env.get(k, "").isdecimal()]:
            raise ConfigError(f"JAX_COORDINATOR_ADDRESS is set, so {' and '.join(missing)} must be numbers")
        if spans_machines(env) and re.fullmatch(r"localhost|127\.[\d.]+|\[?::1\]?", address.rpartition(":")[0]):
            raise ConfigError(
                f"JAX_COORDINATOR_ADDRESS={address} is this machine for every one of them, but the job spans several: "
                "give the name by which the others reach the first machine"
            )
        # Without "deactivate" JAX would still ask Slurm or Open MPI, and see one device of each machine.
        number, index = int(env["JAX_NUM_PROCESSES"]), int(env["JAX_PROCESS_ID"])
        jax.distributed.initialize(address, number, index, cluster_detection_method="deactivate", **timeouts)
    elif several_processes(env):
        try:
            jax.distributed.initialize(**timeouts)
        except ValueError as error:  # JAX sees no cluster, as in a shell of `salloc`
            raise ConfigError(
                f"the environment speaks of several processes, but this is none of them ({error}): start all at once, "
                "under Slurm by `srun python -m ...`, or this one alone without SLURM_NTASKS"
            ) from error
    check_devices(env)


def several_processes(env: Mapping[str, str]) -> bool:
    """Whether a scheduler that JAX knows started more than this process."""
    numbers = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "MEGASCALE_NUM_SLICES")
    return any(int(env.get(key, 1)) > 1 for key in numbers) or "," in env.get("TPU_WORKER_HOSTNAMES", "")


def place_in_job(env: Mapping[str, str]) -> tuple[int, int]:
    """Which process this is and how many there are, before they have met, where the environment says so; else 0, 1."""
    hosts = env.get("TPU_WORKER_HOSTNAMES", "").count(",") + 1
    slices, slice_index = (int(env.get(f"MEGASCALE_{k}", v)) for k, v in (("NUM_SLICES", 1), ("SLICE_ID", 0)))
    named = ("JAX_PROCESS_ID", "JAX_NUM_PROCESSES"), ("SLURM_PROCID", "SLURM_NTASKS")
    for index, number in (*named, ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")):
        if env.get(index, "").isdecimal() and env.get(number, "").isdecimal():
            return int(env[index]), int(env[number])
    return slice_index * hosts + int(env.get("TPU_WORKER_ID", 0)), slices * hosts


def spans_machines(env: Mapping[str, str]) -> bool:
    """Whether a scheduler says that the job runs on more than this machine."""
    everywhere, here = (int(env.get(f"OMPI_COMM_WORLD_{k}", 1)) for k in ("SIZE", "LOCAL_SIZE"))
    machines = max(int(env.get(key, 1)) for key in ("SLURM_STEP_NUM_NODES", "MEGASCALE_NUM_SLICES"))
    return machines > 1 or everywhere > here or "," in env.get("TPU_WORKER_HOSTNAMES", "")


def check_devices(env: Mapping[str, str]) -> None:
    """Raises ConfigError where JAX fell back to the CPU of a machine with accelerators, or sees other devices than the
    launcher promised in `BIGCL_DEVICES`."""
    import jax

    from bigcl.registry import ConfigError

    seen = f"process {jax.process_index()} sees {jax.local_device_count()} {jax.default_backend()} device(s)"
    if jax.default_backend() == "cpu" and accelerators() and not jax.config.values["jax_platforms"]:
        raise ConfigError(
            f"{seen}, but this machine has accelerators: install JAX with support for them "
            '(`pip install "jax[cuda13]"` or `"jax[tpu]"`), or set JAX_PLATFORMS=cpu to do without'
        )
    promised = env.get("BIGCL_DEVICES")
    if promised and int(promised) != jax.local_device_count():
        raise ConfigError(
            f"{seen}, but the job was promised {promised} each (BIGCL_DEVICES): "
            "look at CUDA_VISIBLE_DEVICES, the scheduler's device flags and --chips of the launcher"
        )


def gathered(data: bytes) -> list[bytes]:
    """What every process says, in their order, on all of them; each must call."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return [data]
    sizes = multihost_utils.process_allgather(np.array(len(data), np.int32))
    longest = 1 << int(max(sizes.max(), 4096) - 1).bit_length()  # for each length XLA compiles a program
    parts = multihost_utils.process_allgather(np.frombuffer(data.ljust(longest, b"\0"), np.uint8))
    return [part[:size].tobytes() for part, size in zip(parts, sizes.tolist(), strict=True)]


def agree(facts: Mapping[str, Any]) -> None:
    """Stops all processes, with ConfigError, where what they take for granted is not the same; each must call.

    facts: plain data by what it is called.
    """
    from bigcl.config import differences
    from bigcl.registry import ConfigError

    said = json.dumps([platform.node(), facts], sort_keys=True).encode()
    digests = gathered(hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).digest())
    if len(set(digests)) == 1:
        return
    names, every = zip(*(json.loads(part) for part in gathered(said)), strict=True)
    lines = [
        f"  {line} (process {i} on {name})"
        for i, (name, other) in enumerate(zip(names, every, strict=True))
        for line in differences(every[0], other)[:3]
    ]
    raise ConfigError("\n".join([f"not all processes are as process 0 on {names[0]}:", *lines[:30]]))


def versions() -> dict[str, str]:
    """Versions that all processes of a run must share."""
    return {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in PACKAGES}}


def agreed(value: bool) -> bool:
    """What the first process says, on all of them; each must call."""
    return gathered(bytes([value]))[0] == b"\1"


def everywhere(value: bool) -> bool:
    """Whether all processes say so; each must call."""
    return all(said == b"\1" for said in gathered(bytes([value])))


@contextlib.contextmanager
def together() -> Iterator[None]:
    """An error of one process within ends all, with ConfigError on the others, which would wait for it for ever; each
    must enter."""
    from bigcl.registry import ConfigError

    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    said = [part.decode() for part in gathered(("" if failure is None else f"{failure}" or repr(failure)).encode())]
    if failure is not None:
        raise failure
    if (process := next((i for i, text in enumerate(said) if text), None)) is not None:
        raise ConfigError(f"process {process} has ended: {said[process]}")

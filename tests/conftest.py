"""Eight emulated CPU devices, strict promotion, shapes checked at run time, compiled programs kept between runs."""

import contextlib
import os
import resource

from bigcl.host import several_devices

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Programs of the tests run for milliseconds and compile for seconds: a third less without LLVM's optimizations.
os.environ["XLA_FLAGS"] = f"--xla_backend_optimization_level=0 {os.environ.get('XLA_FLAGS', '')}"
os.environ.update(several_devices(os.environ))

import jax
import jaxtyping
import pytest

from bigcl.data.cache import cache_root

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(cache_root() / "xla-tests"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.02)

# Before anything imports them: shapes and dtypes in signatures are checked at every call.
jaxtyping.install_import_hook(["bigcl.losses", "bigcl.towers"], "beartype.beartype")


def pytest_xdist_auto_num_workers(config):
    """For whole folders a process for each core, up to four, as each takes some gigabytes; a few tests have none beside
    this one."""
    folders = all(os.path.isdir(arg) for arg in config.args) and not config.option.keyword
    return min(4, os.cpu_count() or 1) if folders else 0


@pytest.fixture(autouse=True, scope="module")
def forgotten():
    """After a file its compiled programs go, which no other file would use: they would be most of the memory."""
    yield
    jax.clear_caches()


@pytest.fixture
def no_room():
    """A context in which no file of this process may grow beyond some bytes: to whoever writes, the disk is full."""

    @contextlib.contextmanager
    def limited(size):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


def pytest_collection_modifyitems(items):
    """What compiles for TPUs comes last: once libtpu is loaded, a trace of the profiler crashes the process."""
    items.sort(key=lambda item: hasattr(item.module, "devices_of"))

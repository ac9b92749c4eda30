"""Tells what a job would run on, and whether it computes the right thing: `python -m bigcl.doctor [--workdir runs/a]`.

Start it as you would start training, by any launcher or scheduler: all processes take part, the first one speaks. Ends
with status 1 if something is wrong.
"""

import argparse
import os
import pathlib
import platform
import sys
import time
import uuid
from collections.abc import Callable
from typing import Any

from bigcl import host

if __name__ == "__main__":
    host.prepare()

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bigcl.losses import infonce
from bigcl.mesh import batch_sharding, make_mesh, replicated
from bigcl.registry import ConfigError

MEGABYTES = 64
ROUNDS = 5


def main() -> None:
    """Joins the cluster, looks at everything, and says what it found."""
    parser = argparse.ArgumentParser(prog="python -m bigcl.doctor", description=__doc__)
    parser.add_argument("--workdir", type=pathlib.Path, help="a folder whose speed of writing is of interest")
    args = parser.parse_args()
    try:
        host.configure_jax()
        host.join_cluster()
        wrong = False
        for look in (inventory, links, lambda: [loss_check()], lambda: [workdir_check(args.workdir)]):
            lines = look()
            wrong |= any("WRONG" in line for line in lines)
            if jax.process_index() == 0:
                print(*lines, sep="\n", flush=True)  # at once: whatever comes next may hang
    except ConfigError as error:
        sys.exit(f"error: {error}")
    if wrong:
        sys.exit(1)


def inventory() -> list[str]:
    """Processes, devices, versions; what differs between processes is told."""
    mine = f"{platform.node()}: " + ", ".join(f"{name} {version}" for name, version in host.versions().items())
    every = [text.decode().partition(": ") for text in host.gathered(mine.encode())]
    memory = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    lines = [
        f"processes   {jax.process_count()} on {len({name for name, _, _ in every})} machine(s)",
        f"devices     {jax.device_count()} x {jax.devices()[0].device_kind}, {jax.local_device_count()} a process"
        + (f", {memory / 2**30:.1f} GiB each" if memory else ""),
        f"versions    {every[0][2]}",
    ]
    for name, _, other in every:
        if other != every[0][2]:
            lines.append(f"            WRONG: {name} has {other}")
    return lines


def links() -> list[str]:
    """What each device gets over its links, measured: all-reduce (a ring moves 2 (n-1)/n of the bytes) and a shift by
    one, on arrays of 64 MiB a device."""
    count = jax.device_count()
    if count == 1:
        return ["links       one device, none to measure"]
    mesh = jax.make_mesh((count,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    size = MEGABYTES * 2**20
    shift = [(i, (i + 1) % count) for i in range(count)]
    found = {
        "all-reduce": (2 * (count - 1) / count, lambda x: jax.lax.psum(x, "x")),
        "ppermute": (1.0, lambda x: jax.lax.ppermute(x, "x", shift)),
    }
    return [
        f"links       {name:<12}{share * size / seconds(mesh, f) / 1e9:.2f} GB/s a device"
        for name, (share, f) in found.items()
    ]


def seconds(mesh: Mesh, collective: Callable[[Any], Any]) -> float:
    """The median time of a collective on 64 MiB of float32 a device."""
    spec = PartitionSpec("x")
    x = jax.jit(
        lambda: jnp.ones(mesh.devices.size * MEGABYTES * 2**18, jnp.float32), out_shardings=NamedSharding(mesh, spec)
    )()
    run = jax.jit(jax.shard_map(collective, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False))
    jax.block_until_ready(run(x))
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        jax.block_until_ready(run(x))
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def loss_check(mesh: Mesh | None = None, width: int = 64) -> str:
    """Value and gradients of the global loss, over all devices of a mesh (default: of all there are), against the dense
    form in float64 on the host. A link that delivers wrong bytes shows here."""
    mesh = make_mesh() if mesh is None else mesh
    batch = mesh.devices.size * max(1, min(8, 2048 // mesh.devices.size))
    za, zb = np.random.default_rng(0).normal(size=(2, batch, width)).astype(np.float32)
    za, zb = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (za, zb))
    expected = dense(za.astype(np.float64), zb.astype(np.float64), 10.0)
    put = [jax.make_array_from_callback(z.shape, batch_sharding(mesh), z.__getitem__) for z in (za, zb)]
    with jax.set_mesh(mesh):
        found = jax.jit(
            jax.value_and_grad(lambda a, b: infonce(a, b, jnp.float32(10.0)), argnums=(0, 1)),
            out_shardings=replicated(mesh),
        )(*put)
    worst = max(
        float(np.abs(np.asarray(f) - e).max() / np.abs(e).max())
        for f, e in zip(jax.tree.leaves(found), expected, strict=True)
    )
    good = worst < (1e-4 if jax.default_backend() == "cpu" else 2e-2)  # accelerators multiply in lower precision
    verdict = "agrees with" if good else "WRONG: differs from"
    return f"loss        over {mesh.devices.size} device(s) {verdict} the dense one: {worst:.1e} of the largest value"


def dense(za: np.ndarray, zb: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """InfoNCE and its gradients by the textbook, from the whole matrix of logits."""
    batch = len(za)
    exp = np.exp(scale * za @ zb.T)
    rows, columns = exp / exp.sum(1, keepdims=True), exp / exp.sum(0, keepdims=True)
    value = -0.5 * (np.log(np.diag(rows)) + np.log(np.diag(columns))).mean()
    slope = scale * (rows + columns - 2 * np.eye(batch)) / (2 * batch)
    return np.asarray(value), slope @ zb, slope.T @ za


def workdir_check(workdir: pathlib.Path | None) -> str:
    """How fast the first process writes to the workdir, to the disk and not to its cache."""
    if workdir is None or jax.process_index() != 0:
        return "workdir     none given (--workdir)"
    block, path = os.urandom(2**20), workdir / f".doctor-{uuid.uuid4().hex}"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        began = time.perf_counter()
        with path.open("wb") as file:
            for _ in range(MEGABYTES):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        speed = MEGABYTES * 2**20 / (time.perf_counter() - began)
    except OSError as error:
        return f"workdir     WRONG: {workdir} cannot be written: {error.strerror}"
    finally:
        if path.exists():
            path.unlink()
    return f"workdir     {workdir}: {speed / 1e6:.0f} MB/s written"


if __name__ == "__main__":
    main()

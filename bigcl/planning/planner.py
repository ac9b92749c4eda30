"""A plan: the training step of a config, compiled for devices that may not be there, and what follows from it."""

import collections
import contextlib
import dataclasses
import math
import os
import pathlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from jax.lax import Precision

from bigcl import flops, registry
from bigcl.chips import DCN, Chip, device_figures
from bigcl.experiment import Experiment
from bigcl.planning.buffers import Buffers, Temporary, largest, parse_buffers
from bigcl.planning.collectives import Collective, read_collectives, summarize
from bigcl.planning.gpus import GPUS, compiler_options, usable
from bigcl.planning.hlo import Module
from bigcl.planning.traffic import hbm_bytes
from bigcl.registry import ConfigError

UNREAD = "a loop whose trips could not be read counts once"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one training step needs. Memory, traffic and collectives are those of one chip.

    settings: mesh, remat policies and micro-batch.  parameters: of all towers.
    memory: bytes of `arguments`, `outputs`, `temporaries`, of all three (`peak`), and of the chip (`limit`, None where
        it is not known).
    flops: of the model in a `step` and for each `pair`, and those that a `chip` executes, recomputation included.
    hbm_bytes: read and written in a step.
    tflops: bfloat16 peak of a chip; None for unknown ones.
    seconds: that the step takes at least, for the FLOPs, the HBM and the links each; empty for unknown chips.
    inputs: what the step takes in, by key: shape of one example; `example_bytes`.
    error: what the compiler said when the program does not fit its memory.
    """

    devices: str
    chips: int
    hosts: int
    settings: Mapping[str, Any]
    batch: int
    parameters: int
    memory: Mapping[str, int | None]
    flops: Mapping[str, float]
    hbm_bytes: float
    collectives: Sequence[Collective]
    temporaries: Sequence[Temporary]
    tflops: float | None
    seconds: Mapping[str, float]
    example_bytes: int
    error: str = ""
    notes: Sequence[str] = ()

    @property
    def fits(self) -> bool:
        """Whether the program is known to fit the memory of a chip."""
        peak, limit = self.memory["peak"] or 0, self.memory["limit"]
        return not self.error and limit is not None and peak <= limit

    @property
    def bound(self) -> tuple[str, float] | None:
        """What the step waits for longest, and for how many seconds; None for unknown chips."""
        return max(self.seconds.items(), key=lambda item: item[1]) if self.seconds else None

    @property
    def max_mfu(self) -> float | None:
        """Share of the chips' bfloat16 peak that the model's FLOPs can reach at most; None for unknown chips."""
        if self.bound is None or self.tflops is None:
            return None
        return self.flops["step"] / self.chips / (self.tflops * 1e12) / self.bound[1]

    @property
    def host_rate(self) -> float | None:
        """Pairs a second that each host must make ready, so that the step never waits; None for unknown chips."""
        return self.batch / self.bound[1] / self.hosts if self.bound else None

    def as_json(self) -> dict[str, Any]:
        """All of it as plain data."""
        bound, rate = self.bound, self.host_rate
        return {
            **dataclasses.asdict(self),
            "fits": self.fits,
            "bound_by": bound and bound[0],
            "step_seconds": bound and bound[1],
            "max_mfu": self.max_mfu,
            "host_pairs_per_second": rate,
            "host_bytes_per_second": rate and rate * self.example_bytes,
        }


def make_plan(config: Mapping[str, Any], devices: Sequence[jax.Device]) -> Plan:
    """The plan of a resolved config on these devices. Compiles, for a minute or more, and runs nothing.

    Raises ConfigError for a config that does not go with these devices.
    """
    check_vocabulary(config)
    experiment = Experiment(**config, devices=devices)
    module, buffers, error = compile_and_read(experiment)
    mesh = dict(experiment.mesh.shape)
    each = [c for c in read_collectives(module, mesh) if c.axes or c.dcn]
    batch, params = experiment.train.batch, experiment.state_shapes.params
    model = experiment.flops_per_step()
    step = jax.make_jaxpr(experiment.step())(experiment.state_shapes, experiment.batch_shapes())
    executed = list(flops.products(step.jaxpr))
    traffic = hbm_bytes(module)
    figures = device_figures(devices)
    seconds = {}
    if figures is not None:
        float32 = float32_passes(devices[0], figures)
        computing = sum(p.flops * passes(p, figures, float32) for p in executed) / len(devices)
        seconds = lower_bounds(figures, computing, traffic, each, Hosts.of(devices))
    return Plan(
        devices=f"{len(devices)} x {devices[0].device_kind}",
        chips=len(devices),
        hosts=Hosts.of(devices).count,
        settings=settings(config) | {"mesh": mesh},
        batch=batch,
        parameters=sum(math.prod(x.shape) for x in params.values()),
        memory=memory(buffers, devices, figures),
        flops={"step": model, "pair": model / batch, "chip": sum(p.flops for p in executed) / len(devices)},
        hbm_bytes=traffic,
        collectives=summarize(each),
        temporaries=largest(buffers, module),
        tflops=None if figures is None else figures.tflops,
        seconds=seconds,
        example_bytes=sum(math.prod(x.shape[1:]) * x.dtype.itemsize for x in experiment.batch_shapes().values()),
        error=error,
        notes=[*left_out(config), *between_hosts(devices), *(f"{UNREAD}: {name}" for name in module.unknown_loops)],
    )


def check_vocabulary(config: Mapping[str, Any]) -> None:
    """Raises ConfigError for a tower whose vocabulary only the tokenizer's file knows."""
    if (config["tokenizer"] or {}).get("vocab_size"):
        return
    for name, tower in config["task"].get("towers", {}).items():
        if isinstance(tower, Mapping) and "vocab" not in tower:
            parameter = registry.signature(registry.constructor("tower", tower["kind"])).get("vocab")
            if parameter is not None and parameter.default is parameter.empty:
                key = f"task.towers.{name}.vocab"
                raise ConfigError(f"{key}: a plan opens no tokenizer; give --config.{key}=N")


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a plan can change without changing what is learned."""
    towers = config["task"].get("towers", {})
    remat = {name: t["remat"] for name, t in towers.items() if isinstance(t, Mapping) and "remat" in t}
    return {"microbatch": config["train"]["microbatch"], "remat": remat}


def compile_and_read(experiment: Experiment) -> tuple[Module, Buffers, str]:
    """Compiles the step; the program, its memory, and the compiler's complaint if it does not fit."""
    with tempfile.TemporaryDirectory(prefix="bigcl-plan-") as folder, without_cache():
        error, lowered = "", experiment.lower_step()
        try:
            options: dict[str, Any] = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
            options |= compiler_options(list(experiment.mesh.devices.flat))
            lowered.compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as failure:
            if "RESOURCE_EXHAUSTED" not in str(failure):
                raise
            error = str(failure).splitlines()[0]
        dump = pathlib.Path(folder)
        module = Module(read_dump(dump, "after_optimizations"))
        buffers = parse_buffers(
            read_dump(dump, "after_optimizations-buffer-assignment"), read_dump(dump, "after_optimizations-live-range")
        )
    return module, buffers, error


def read_dump(folder: pathlib.Path, kind: str) -> str:
    """One of the files that XLA leaves, of the step among all that was compiled on the way."""
    files = sorted(folder.glob(f"*jit_step*{kind}.txt"))
    if not files:
        raise RuntimeError(f"the compiler left no {kind}; it is another version than this reader knows")
    return files[-1].read_text()


@contextlib.contextmanager
def without_cache() -> Iterator[None]:
    """Compiles anew: a program out of the compilation cache leaves nothing to read."""
    enabled = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
        reset_cache()


def left_out(config: Mapping[str, Any]) -> Iterator[str]:
    """Sentences on what of a config's data a plan does not hold."""
    data = config["data"]
    if kinds := [part["kind"] for part in data.get("device", ())]:
        yield f"data.device is left out ({', '.join(kinds)}): the batch is what the towers read"
    for part in data.get("transforms", ()):
        if part["kind"] == "naflex" and not isinstance(part["tokens"], int) and len(part["tokens"]) > 1:
            yield f"batches have several forms ({part['key']}): this is the one of most patches, {max(part['tokens'])}"


def between_hosts(devices: Sequence[jax.Device]) -> Iterator[str]:
    """What bounds leave out of hosts with GPUs, whose network no table knows."""
    if devices[0].platform == "gpu" and Hosts.of(devices).count > 1:
        yield "links between hosts are taken to be as fast as those within them"


def memory(buffers: Buffers, devices: Sequence[jax.Device], figures: Chip | None) -> dict[str, int | None]:
    """Bytes that the step takes of one chip, and that a chip has: to the allocator of a device that is there, else by
    the vendor, of a GPU the share that JAX takes (`usable`)."""
    try:
        limit: int | None = (devices[0].memory_stats() or {}).get("bytes_limit")
    except jax.errors.JaxRuntimeError:  # it is not there
        limit = None
    if limit is None and figures is not None:
        limit = usable(figures.memory) if devices[0].platform == "gpu" else int(figures.memory)
    elif limit is None and devices[0].platform == "cpu" and hasattr(os, "sysconf"):  # emulated ones share the host's
        limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // len(devices)
    return {
        "arguments": buffers.arguments,
        "outputs": buffers.outputs,
        "temporaries": buffers.temporaries,
        "peak": buffers.peak,
        "limit": limit,
    }


@dataclasses.dataclass(frozen=True)
class Hosts:
    """count: how many.  chips: of each.  in_slice: of each slice."""

    count: int
    chips: float
    in_slice: float

    @classmethod
    def of(cls, devices: Sequence[jax.Device]) -> "Hosts":
        """The hosts of these devices."""
        slices = {d: getattr(d, "slice_index", 0) for d in devices}
        count = len({(slices[d], d.process_index) for d in devices})
        return cls(count, len(devices) / count, count / len(set(slices.values())))


def passes(product: flops.Product, figures: Chip, float32: Mapping[Precision, float]) -> float:
    """How long a product takes at least, in bfloat16 products: at the peak of eight bits if both sides have eight; of
    float32 by its precision (`float32_passes`)."""
    dtypes = [v.aval.dtype for v in product.equation.invars[:2]]
    if all(d.itemsize == 1 for d in dtypes):
        return figures.tflops / figures.tflops_8bit
    precision = product.equation.params["precision"] or (Precision.DEFAULT,)
    if isinstance(precision, tuple) and all(d == jnp.float32 for d in dtypes):
        return min(float32.get(p, 1) for p in precision)
    return 1


def float32_passes(device: jax.Device, figures: Chip) -> dict[Precision, float]:
    """How many bfloat16 products one of float32 takes at least: passes of a TPU's matrix units; on GPUs TF32, which
    runs at half the rate, and at full precision the units outside the tensor cores."""
    if device.platform == "tpu":
        return {Precision.HIGH: 3, Precision.HIGHEST: 6}
    for gpu in GPUS.values():
        if gpu.kind == device.device_kind:
            return {Precision.DEFAULT: 2, Precision.HIGH: 2, Precision.HIGHEST: figures.tflops / gpu.float32_tflops}
    return {}


def lower_bounds(
    figures: Chip, computing: float, traffic: float, each: Sequence[Collective], hosts: Hosts
) -> dict[str, float]:
    """Seconds that a step takes at least, if it did nothing but compute, read and write HBM, or send.

    computing: FLOPs of a chip at the bfloat16 peak (`passes`).  traffic: bytes of its HBM.

    Links: a chip sends over all of them at once, each at its full rate one way whatever comes the other way, and all
    that has one route (a permutation's pairs) over one of them. So the two halves of a ring, in opposite directions,
    take two links; where other collectives lie on the torus is not known, and they are taken to use all.

    Between slices: the chips of a host share its network. One chip of a slice at least sends what a permutation sends;
    permutations with other pairs leave by other hosts, if a slice has several.
    """
    inside, between = ([c for c in each if c.dcn == dcn] for dcn in (False, True))
    sent, routes = sum(c.bytes for c in inside), by_route(inside)
    bounds = {
        "FLOPs": computing / (figures.tflops * 1e12),
        "HBM": traffic / figures.bandwidth,
        "links": max(sent / figures.links, *routes, 0.0) / figures.link,
    }
    if between:
        routes = by_route(between)
        shared = sum(c.bytes for c in between) - sum(routes)  # by all chips
        leaving = sum(routes) if hosts.in_slice == 1 else max(routes, default=0.0)
        bounds["network between slices"] = (shared * hosts.chips + leaving) / DCN
    return bounds


def by_route(each: Sequence[Collective]) -> list[float]:
    """Bytes of permutations, for each of their routes."""
    total: dict[str, float] = collections.defaultdict(float)
    for c in each:
        if c.kind == "collective-permute":
            total[c.route] += c.bytes
    return list(total.values())

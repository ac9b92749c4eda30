"""A plan: the training step of a config, compiled for devices that may not be there, and what follows from it."""

import contextlib
import dataclasses
import math
import os
import pathlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from bigcl import registry
from bigcl.chips import DCN, Chip, chip
from bigcl.experiment import Experiment
from bigcl.planning.buffers import Buffers, Temporary, largest, parse_buffers
from bigcl.planning.collectives import Collective, read_collectives, summarize
from bigcl.planning.hlo import Module
from bigcl.planning.traffic import hbm_bytes
from bigcl.registry import ConfigError


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one training step needs. Memory, traffic and collectives are those of one chip.

    settings: mesh, remat policies and micro-batch.  parameters: of all towers.
    memory: bytes of `arguments`, `outputs`, `temporaries`, of all three (`peak`), and of the chip (`limit`, None where
        it is not known).
    flops: of the model in a `step` and for each `pair`, and those that a `chip` executes, recomputation included.
    hbm_bytes: read and written in a step.
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
    seconds: Mapping[str, float]
    example_bytes: int
    error: str = ""
    notes: Sequence[str] = ()

    @property
    def fits(self) -> bool:
        """Whether the program fits the memory of a chip, as far as that is known."""
        peak, limit = self.memory["peak"] or 0, self.memory["limit"]
        return not self.error and (limit is None or peak <= limit)

    @property
    def bound(self) -> tuple[str, float] | None:
        """What the step waits for longest, and for how many seconds; None for unknown chips."""
        return max(self.seconds.items(), key=lambda item: item[1]) if self.seconds else None

    @property
    def max_mfu(self) -> float | None:
        """Share of the chips' peak that the model's FLOPs can reach at most; None for unknown chips."""
        if self.bound is None:
            return None
        executing = self.seconds["FLOPs"] / self.flops["chip"]  # seconds for one FLOP at the peak
        return self.flops["step"] / self.chips * executing / self.bound[1]

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
    flops = {"step": model, "pair": model / batch, "chip": experiment.executed_flops() / len(devices)}
    traffic = hbm_bytes(module)
    hosts = len({(getattr(d, "slice_index", 0), d.process_index) for d in devices})
    figures = chip_figures(devices)
    return Plan(
        devices=f"{len(devices)} x {devices[0].device_kind}",
        chips=len(devices),
        hosts=hosts,
        settings=settings(config) | {"mesh": mesh},
        batch=batch,
        parameters=sum(math.prod(x.shape) for x in params.values()),
        memory=memory(buffers, devices, figures),
        flops=flops,
        hbm_bytes=traffic,
        collectives=summarize(each),
        temporaries=largest(buffers, module),
        seconds={} if figures is None else lower_bounds(figures, flops["chip"], traffic, each, len(devices) / hosts),
        example_bytes=sum(math.prod(x.shape[1:]) * x.dtype.itemsize for x in experiment.batch_shapes().values()),
        error=error,
        notes=[f"a loop whose trips could not be read counts once: {name}" for name in module.unknown_loops],
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
            lowered.compile(compiler_options={"xla_dump_to": folder, "xla_dump_hlo_as_text": True})
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


def chip_figures(devices: Sequence[jax.Device]) -> Chip | None:
    """The figures of one device: of a chip, or its share where a chip is several devices."""
    figures = chip(devices[0].device_kind)
    places = {(getattr(d, "slice_index", 0), tuple(getattr(d, "coords", (d.id,)))) for d in devices}
    share = len(places) / len(devices)
    if figures is None or share == 1:
        return figures
    return dataclasses.replace(
        figures,
        tflops=figures.tflops * share,
        memory=figures.memory * share,
        bandwidth=figures.bandwidth * share,
        link=figures.link * share,
    )


def memory(buffers: Buffers, devices: Sequence[jax.Device], figures: Chip | None) -> dict[str, int | None]:
    """Bytes that the step takes of one chip, and that a chip has."""
    if figures is not None:
        limit: int | None = int(figures.memory)
    elif devices[0].platform == "cpu" and hasattr(os, "sysconf"):  # emulated devices share the host's
        limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // len(devices)
    else:
        limit = (devices[0].memory_stats() or {}).get("bytes_limit")
    return {
        "arguments": buffers.arguments,
        "outputs": buffers.outputs,
        "temporaries": buffers.temporaries,
        "peak": buffers.peak,
        "limit": limit,
    }


def lower_bounds(
    figures: Chip, flops: float, traffic: float, each: Sequence[Collective], chips_per_host: float
) -> dict[str, float]:
    """Seconds that a step takes at least, if it did nothing but compute, read and write HBM, or send.

    All links of a chip work at once, but a permutation sends to one neighbour, over one. Between slices the chips of a
    host share its network, and a permutation leaves a slice by one of them.
    """
    one_way = {True: figures.link, False: figures.link * figures.links}
    links = sum(c.bytes / one_way[c.kind == "collective-permute"] for c in each if not c.dcn)
    dcn = sum(c.bytes * (1 if c.kind == "collective-permute" else chips_per_host) for c in each if c.dcn) / DCN
    bounds = {"FLOPs": flops / (figures.tflops * 1e12), "HBM": traffic / figures.bandwidth, "links": links}
    return bounds | ({"network between slices": dcn} if dcn else {})

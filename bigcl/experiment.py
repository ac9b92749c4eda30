"""A config made real: mesh, data, task, optimizer, evaluators, and where every array lies."""

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import pathlib
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding
from jaxtyping import Array, Key

import bigcl
from bigcl import flops, registry, rules
from bigcl.checkpoint import Checkpoints
from bigcl.config import plain
from bigcl.data import mixture
from bigcl.data.loader import BESIDE, Loader
from bigcl.data.order import batch_hash
from bigcl.data.sources import place as place_of
from bigcl.data.sources import source_extent, source_name
from bigcl.data.transforms import device
from bigcl.encoder import Encoder, compile_encoder, compute_dtype
from bigcl.mesh import batch_sharding, make_mesh, place, replicated, shard_largest
from bigcl.optim import make_optimizer
from bigcl.registry import ConfigError, Part
from bigcl.state import Arrays, Skeleton, TrainState, example_keys, init_state, make_step
from bigcl.tasks.task import Batch, Task
from bigcl.towers import layers
from bigcl.watchdog import Deadlines

SHOWN = 64
"""Examples of the first batch, and of all data, whose places all processes compare."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The section `train` of a config.

    steps, batch: length of the run, and examples in each global batch.
    dtype: what towers compute in; "auto" is bfloat16, and float32 on CPU, which has no faster type. Parameters are
        float32. (Products of float32 arrays are the device's default, TF32 on recent GPUs; JAX_DEFAULT_MATMUL_PRECISION
        says otherwise.)
    ema: decay of a moving average of the weights, which is then what is evaluated; None for none.
    microbatch: rows of the global batch that are encoded at a time, for memory; loss and gradient are still those of
        the whole batch. None: all at once. Over `data` and `replica` the gradient is reduced once a step; over `fsdp`
        every micro-batch gathers the weights and reduces their gradients.
    log_every: steps between rows of `metrics.jsonl`.
    profile: steps that are traced soon after the start, into the workdir's `profile/`.
    max_skipped: the run stops when so many steps in a row had a loss or gradient that was not finite.
    rewinds: how often the run may go back to a checkpoint from before a loss spike, and on from there with the batches
        that come after the spike (Chowdhery et al. 2022, section 5.1). 0: never, a spike is said and no more.
    """

    steps: int
    batch: int
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    ema: float | None = None
    microbatch: int | None = None
    log_every: int = 10
    profile: int = 3
    max_skipped: int = 10
    rewinds: int = 0

    def __post_init__(self) -> None:
        for key in ("steps", "batch", "microbatch", "log_every", "max_skipped"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise ConfigError(f"train.{key}: expected 1 or more, got {value}")
        if self.rewinds < 0:
            raise ConfigError(f"train.rewinds: expected 0 or more, got {self.rewinds}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The section `data` of a config.

    source, transforms: what there is, and what is done to each example.
    device: what is done to each global batch after that, on the accelerators, within the step.
    workers, prefetch: how many processes (0: threads) do it, and how many batches ahead of time.
    block, window: None for a permutation of all examples; or blocks of so many successive ones are read in a random
        order, and `window` blocks at a time are mixed: for remote storage and row groups.
    max_bad_fraction: the run stops when more of the examples drawn are bad records.
    repeats: fields of the source's examples; the log says how many rows of a batch have one that an earlier row has.
    """

    source: Annotated[Part, "source"]
    transforms: Sequence[Annotated[Part, "transform"]] = ()
    device: Sequence[Annotated[Part, "device_transform"]] = ()
    workers: int = 0
    prefetch: int = 2
    block: int | None = None
    window: int = 16
    max_bad_fraction: float = 0.01
    repeats: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.max_bad_fraction <= 1:
            raise ConfigError(f"data.max_bad_fraction: expected 0 to 1, got {self.max_bad_fraction}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """The section `checkpoint` of a config.

    every: steps between checkpoints (0: only the last step).  keep_every, best, best_is: which of them stay, see
        `Checkpoints`.
    init_from: workdir or folder of checkpoints of another run, whose parameters a new run starts from; init_only:
        patterns of those that are taken (default all). Or a folder for each of several parts, with what the part is
        there: {"towers/image": "runs/clip#towers/image", "towers/ssl": "runs/dino#towers/image"}. Positions of an image
        tower of another resolution are resized, which is said.
    """

    every: int = 0
    keep_every: int | None = None
    best: str | None = None
    best_is: Literal["highest", "lowest"] = "highest"
    init_from: str | Mapping[str, str] | None = None
    init_only: Sequence[str] = (".*",)

    def __post_init__(self) -> None:
        for key in ("every", "keep_every"):
            if (getattr(self, key) or 0) < 0:
                raise ConfigError(f"checkpoint.{key}: expected 0 or more, got {getattr(self, key)}")
        if isinstance(self.init_from, Mapping) and list(self.init_only) != [".*"]:
            raise ConfigError("checkpoint.init_only: init_from names the parts that are taken; leave it out")

    def origins(self) -> list[tuple[str, tuple[str, str], Sequence[str]]]:
        """The folders of `init_from`: each with the prefixes of what is taken, in this run and there, and its
        patterns."""
        if not isinstance(self.init_from, Mapping):
            return [] if self.init_from is None else [(self.init_from, ("", ""), self.init_only)]
        named = {part: name.rpartition("#") for part, name in self.init_from.items()}
        if bare := [part for part, (folder, _, _) in named.items() if not folder]:
            raise ConfigError(
                f"checkpoint.init_from: {bare[0]!r}: expected FOLDER#PART, got {self.init_from[bare[0]]!r}"
            )
        return [
            (folder, (f"{part}/", f"{there}/"), [f"{re.escape(part)}/.*"]) for part, (folder, _, there) in named.items()
        ]


class Experiment:
    """What a config describes. Its sections are the arguments; building one touches the devices, `resolve` does not."""

    def __init__(
        self,
        *,
        seed: int = 0,
        train: Annotated[Part, TrainOptions],
        data: Annotated[Part, DataOptions],
        tokenizer: Annotated[Part, "tokenizer"] | None = None,
        task: Annotated[Part, "task"],
        optim: Annotated[Part, make_optimizer],
        mesh: Annotated[Part, make_mesh] = {},  # noqa: B006, read only
        evals: Mapping[str, Annotated[Part, "evaluator"]] = {},
        checkpoint: Annotated[Part, CheckpointOptions] = {},  # noqa: B006, read only
        deadlines: Annotated[Part, Deadlines] = {},  # noqa: B006, read only
        devices: Sequence[jax.Device] | None = None,
    ):
        """devices: what to plan for, whether it is there or not (see `bigcl.planning`); then no data is opened, and a
        batch is what the task says it reads, in its longest form, as if nothing had to be done to it. None: all
        devices, and data.
        """
        self.seed, self.train, self.checkpoint = seed, TrainOptions(**train), CheckpointOptions(**checkpoint)
        self.deadlines = Deadlines(**deadlines)
        self.mesh = make_mesh(**mesh, devices=devices)
        shards = self.mesh.devices.size // self.mesh.shape["tensor"]
        for key, rows in (("batch", self.train.batch), ("microbatch", self.train.microbatch or self.train.batch)):
            if rows % shards or self.train.batch % rows:
                raise ConfigError(f"train.{key}: {rows} rows of {self.train.batch} do not divide over {shards} devices")
        if devices is None and shards % jax.process_count():
            raise ConfigError(
                f"mesh.tensor: the batch is split {shards} ways, which do not divide among {jax.process_count()} "
                "processes; make tensor smaller"
            )
        vocab, evals = (tokenizer or {}).get("vocab_size"), evals if devices is None else {}
        if devices is None:
            self.open(tokenizer, DataOptions(**data))
            vocab = None if self.tokenizer is None else self.tokenizer.vocab_size
        self.build_task = functools.partial(
            registry.build,
            "task",
            task,
            dtype=self.dtype(),
            batch_size=self.train.batch,
            steps=self.train.steps,
            vocab=vocab,
        )
        abstract, self.skeleton, shapes = outline(self.build_task)
        self.fronts = position_fronts(abstract)
        self.planned_example = None if devices is None else longest_form(abstract.reads(), data.get("transforms", ()))
        self.device_transforms = [] if devices is not None else device.build(self.data.device)
        if self.device_transforms:
            device.check(self.device_transforms, self.loader.spec(), abstract.reads())
        self.optimizer = make_optimizer(shapes, steps=self.train.steps, batch_size=self.train.batch, **optim)
        self.notes = [*abstract.describe(), *self.optimizer.notes]
        self.max_scale = abstract.max_scale
        self.state_shapes = self.with_placement(
            jax.eval_shape(self.new_state), place(shapes, self.mesh, mesh.get("rules"))
        )
        self.evaluators = {
            k: registry.build("evaluator", v, tokenizer=self.tokenizer, mesh=self.mesh) for k, v in evals.items()
        }
        self.eval_every = {k: v.get("every", 0) for k, v in evals.items()}

    def open(self, tokenizer: Part | None, options: DataOptions) -> None:
        """Opens the tokenizer and the data."""
        self.tokenizer = None if tokenizer is None else registry.build("tokenizer", tokenizer)
        self.source, self.data = registry.build("source", options.source), options
        self.loader = Loader(
            self.source,
            [registry.build("transform", part, tokenizer=self.tokenizer) for part in options.transforms],
            batch=self.train.batch,
            seed=self.seed,
            workers=options.workers,
            prefetch=options.prefetch,
            block=options.block,
            window=options.window,
            repeats=options.repeats,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    @staticmethod
    def resolve(config: Mapping[str, Any]) -> dict[str, Any]:
        """The config with the defaults of all its parts filled in. Touches no device and no data.

        Raises ConfigError, naming the key, for a config that cannot work.
        """
        registry.check_call(Experiment, config, "config")
        resolved = plain(registry.resolve(Experiment, config))
        sections = {
            "train": TrainOptions,
            "data": DataOptions,
            "checkpoint": CheckpointOptions,
            "deadlines": Deadlines,
        }
        for section, options in sections.items():
            options(**resolved[section])
        check_patterns(resolved)
        return resolved

    def describe(self) -> list[str]:
        """Lines for the start of a run: hardware, mesh, data, and the defaults that were derived."""
        where, steps, batch = self.environment(), self.train.steps, self.train.batch
        epochs = steps * batch / self.loader.size
        hardware = f"{where['devices']}, {where['processes']} process(es), mesh {where['mesh']}"
        return [
            f"{hardware}, {self.dtype()} towers, jax {jax.__version__}",
            f"data: {source_name(self.source)}, {self.loader.size:,} examples",
            f"{steps:,} steps of {batch:,}: {epochs:.1f} epochs",
            *(mixture.table(self.source.expect(steps, batch)) if isinstance(self.source, mixture.Mixture) else []),
            *(f"data: lost, see quarantine.jsonl: {fault}" for fault in getattr(self.source, "faults", ())[:3]),
            *self.notes,
        ]

    def environment(self) -> dict[str, Any]:
        """Hardware and versions, as the report shows them."""
        versions = {p: importlib.metadata.version(p) for p in ("jax", "flax", "optax", "orbax-checkpoint", "grain")}
        return {
            "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
            "processes": jax.process_count(),
            "mesh": " x ".join(f"{a} {n}" for a, n in self.mesh.shape.items()),
            "towers compute in": str(self.dtype()),
            "python": platform.python_version(),
            "bigcl": bigcl.__version__,
            **versions,
        }

    def data_identity(self) -> dict[str, Any]:
        """What tells the data and their order from others: all processes must read the same. Copies of the files may
        differ in age; names and sizes of the files, the order, and where examples lie may not: those of the first
        batch, and some from all over the data."""
        first, size = self.loader.indices(0), len(self.source)
        spread = np.linspace(0, size - 1, min(size, SHOWN)).astype(int)
        places = [place_of(self.source, int(i)) for i in (*first[:SHOWN], *spread)]
        where = repr([(pathlib.PurePath(shard or "").name, offset) for shard, offset in places])
        hashed = hashlib.sha256(where.encode()).hexdigest()[:16]
        files = hashlib.sha256(json.dumps(source_extent(self.source), sort_keys=True).encode()).hexdigest()[:16]
        return {
            "source": source_name(self.source),
            "examples": self.loader.size,
            "files": files,
            "order": batch_hash(first),
            "places": hashed,
        }

    def mesh_identity(self) -> dict[str, Any]:
        """The mesh and its devices, in their order."""
        devices = [f"{d.device_kind} {d.id}" for d in self.mesh.devices.flat]
        return {"axes": dict(self.mesh.shape), "devices": devices}

    def dtype(self) -> jnp.dtype:
        """What the towers compute in."""
        return compute_dtype(self.train.dtype, self.mesh)

    def new_state(self) -> TrainState:
        """A fresh state, where the default device is; used under `jit`."""
        task = self.build_task(rngs=nnx.Rngs(self.seed))
        return init_state(
            task,
            self.skeleton,
            self.optimizer.tx,
            self.optimizer.trainable,
            ema=self.train.ema is not None,
            seed=self.seed,
        )

    def init(self) -> TrainState:
        """A fresh state, created in its place on the mesh."""
        shardings = jax.tree.map(lambda x: x.sharding, self.state_shapes)
        with jax.set_mesh(self.mesh):
            return jax.jit(self.new_state, out_shardings=shardings)()

    def begin(self, state: TrainState) -> TrainState:
        """A state whose parameters are what the run starts from, as the task begins with them."""
        if not state.extra:
            return state

        def begun(params: Arrays, extra: Arrays) -> Arrays:
            task = self.skeleton.merge(params, extra)
            task.begin()
            return self.skeleton.split(task)[1]

        shardings = jax.tree.map(lambda x: x.sharding, self.state_shapes.extra)
        with jax.set_mesh(self.mesh):
            return state.replace(extra=jax.jit(begun, out_shardings=shardings)(state.params, state.extra))

    def with_placement(self, state: TrainState, params: Mapping[str, NamedSharding]) -> TrainState:
        """Shapes with shardings: whatever is kept for a parameter (moments, average) lies where the parameter lies, and
        what a task keeps beside (queues) like a parameter that no rule speaks of."""

        def sharded(path: str, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            owner = max((p for p in params if path.endswith(f"/{p}")), key=len, default=None)
            where = replicated(self.mesh)
            if owner is not None and x.shape == state.params[owner].shape:
                where = params[owner]
            elif owner is not None or path.startswith("extra/"):
                where = NamedSharding(self.mesh, shard_largest(x.shape, [None] * x.ndim, self.mesh))
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)

        return rules.map_with_path(sharded, state)

    def batch_shapes(self, form: int = 0) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a global batch on the mesh; form: of those that the loader makes."""
        where = batch_sharding(self.mesh)
        rows = self.train.batch
        example = self.planned_example or {
            k: jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for k, x in self.loader.spec(form).items() if k not in BESIDE
        }
        return {k: jax.ShapeDtypeStruct((rows, *x.shape), x.dtype, sharding=where) for k, x in example.items()}

    def compile_step(self) -> Callable[..., Any]:
        """The training step, compiled for the shapes of all forms of a batch; other shapes are an error, never a silent
        recompilation."""
        first, *others = [self.lower_step(form).compile() for form in range(self.forms())]
        if not others:
            return first
        steps = {shapes(self.batch_shapes(form)): step for form, step in enumerate([first, *others])}
        return lambda state, batch: steps[shapes(batch)](state, batch)

    def forms(self) -> int:
        """How many forms a batch can have."""
        return 1 if self.planned_example else len(self.loader.forms)

    def lower_step(self, form: int = 0) -> jax.stages.Lowered:
        """The training step for batches of a form, before it is compiled."""
        shardings = jax.tree.map(lambda x: x.sharding, self.state_shapes)
        with jax.set_mesh(self.mesh):
            jitted = jax.jit(self.step(), donate_argnums=0, out_shardings=(shardings, replicated(self.mesh)))
            return jitted.lower(self.state_shapes, self.batch_shapes(form))

    def step(self) -> Callable[..., Any]:
        """The training step, a function of state and global batch."""
        train, optimizer = self.train, self.optimizer
        return make_step(
            self.skeleton,
            optimizer.tx,
            optimizer.trainable,
            train.ema,
            train.microbatch,
            lambda step: (step % train.log_every == 0) | (step == train.steps),
            self.prepare,
        )

    def prepare(self, batch: Batch, rng: Key[Array, ""] | None = None) -> Batch:
        """A global batch after what `data.device` does to it; rng: None for an evaluation."""
        return device.transform(self.device_transforms, batch, rng)

    def flops_per_step(self) -> float:
        """Model FLOPs of a step over all devices: matrix products of the loss and of the gradient of what is trained,
        without recomputation (`flops.model_flops`); of several forms of a batch, the mean."""
        state = self.state_shapes
        trained = {k: v for k, v in state.params.items() if k in self.optimizer.trainable}

        def loss(trained: Arrays, params: Arrays, extra: Arrays, batch: Batch) -> Any:
            task = self.skeleton.merge({**params, **trained}, extra)
            for _, module in nnx.iter_modules(task):
                if isinstance(module, layers.Stack):
                    module.remat = "none"
                elif isinstance(module, layers.Attention):
                    module.attend = layers.attend  # whose products can be seen
            return task.loss(batch, example_keys(jax.random.key(0), batch))[0]

        def counted(form: int) -> float:
            batch = jax.eval_shape(self.prepare, self.batch_shapes(form), jax.random.key(0))
            return flops.model_flops(loss, trained, state.params, state.extra, batch)

        return float(np.mean([counted(form) for form in range(self.forms())]))

    @functools.cached_property
    def encode_global(self) -> Callable[[Arrays, Arrays, Batch], dict[str, jax.Array]]:
        """The compiled encoder of a global batch."""
        return compile_encoder(self.skeleton, self.mesh, self.prepare)

    def encoder(self, state: TrainState) -> Encoder:
        """A function from a host batch to this process's embeddings, by input; with moving averages where there are
        any."""
        params = state.params if state.ema is None else {**state.params, **state.ema}
        return Encoder(self.encode_global, self.mesh, params, state.extra)

    def evaluate(self, state: TrainState, names: Sequence[str] | None = None) -> dict[str, float]:
        """The numbers of the evaluators `names` (default all), as `eval/<evaluator>/<metric>`."""
        encode = self.encoder(state)
        chosen = self.evaluators if names is None else {k: self.evaluators[k] for k in names}
        return {f"eval/{name}/{metric}": float(v) for name, e in chosen.items() for metric, v in e.run(encode).items()}

    def checkpoints(self, workdir: pathlib.Path, read_only: bool = False) -> Checkpoints:
        """The checkpoints of a run in `workdir`."""
        options = self.checkpoint
        return Checkpoints(
            workdir / "checkpoints",
            slots=options.every if self.train.rewinds else None,
            keep_every=options.keep_every,
            best=options.best,
            best_is=options.best_is,
            deadline=self.deadlines.save,
            read_only=read_only,
        )


def shapes(batch: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells the forms of a batch apart."""
    return tuple(sorted((key, array.shape) for key, array in batch.items()))


def outline(build: Callable[..., Task]) -> tuple[Task, Skeleton, Arrays]:
    """A task without numbers, its skeleton, and the shapes of its parameters."""
    abstract: Task = nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0)))
    skeleton = Skeleton(abstract)
    return abstract, skeleton, skeleton.split(abstract)[0]


def longest_form(
    example: dict[str, jax.ShapeDtypeStruct], transforms: Sequence[Part]
) -> dict[str, jax.ShapeDtypeStruct]:
    """What a task reads of one example, with as many patches as `naflex` makes at most."""
    for part in transforms:
        for key in (part["key"], f"{part['key']}_mask") if part["kind"] == "naflex" else ():
            if key in example:
                x, tokens = example[key], int(np.max(part["tokens"]))
                example = {**example, key: jax.ShapeDtypeStruct((tokens, *x.shape[1:]), x.dtype)}
    return example


def position_fronts(task: Task) -> dict[str, int]:
    """Paths of learned positions of a square of patches, each with how many stand before the square."""
    found = ((path, getattr(module, "position_front", None)) for path, module in nnx.iter_modules(task))
    return {"/".join(map(str, (*path, "position"))): front for path, front in found if front is not None}


def check_patterns(config: Mapping[str, Any]) -> None:
    """Raises ConfigError for a pattern of a resolved config that matches no parameter. Shapes are enough to tell."""
    train = config["train"]
    known = {"batch_size": train["batch"], "steps": train["steps"], "vocab": 1}
    build = functools.partial(registry.build, "task", config["task"], **known)
    _, _, shapes = outline(build)
    make_optimizer(shapes, steps=train["steps"], batch_size=train["batch"], **config["optim"])
    lists = {"mesh.rules": config["mesh"]["rules"] or []}
    origins = CheckpointOptions(**config["checkpoint"]).origins()
    key = "init_from" if isinstance(config["checkpoint"]["init_from"], Mapping) else "init_only"
    lists[f"checkpoint.{key}"] = [(pattern, True) for _, _, patterns in origins for pattern in patterns]
    for what, patterns in lists.items():
        if patterns:
            rules.match([*patterns, (".*", None)], shapes, what=what)

"""Checkpoints: written by Orbax while training goes on, restored strictly."""

import contextlib
import functools
import math
import pathlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, UInt32
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, EveryNSteps, LatestN

from bigcl import rules
from bigcl.host import everywhere, gathered
from bigcl.outcome import NotSaved, Outcome
from bigcl.positions import resized, square
from bigcl.state import Arrays, TrainState
from bigcl.watchdog import SWEEP, Deadlines

TOLD = 3
"""So often at most Orbax tells of a failed save, from several of its threads."""


class CheckpointError(RuntimeError):
    """A checkpoint that is not there, or does not fit; the message lists every difference."""


class DamagedCheckpoint(CheckpointError):
    """A checkpoint that cannot be read, or that does not hold what was saved."""


class BestScore:
    """Orbax policy: the checkpoint with the highest score stays, the later one of equals. Scores come when a step has
    been evaluated, which may be after it was saved."""

    def __init__(self, scores: Mapping[int, float]):
        self.scores = scores

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """One answer for each checkpoint."""
        del context
        rated = [(self.scores[c.step], c.step) for c in checkpoints if c.step in self.scores]
        best = max(rated)[1] if rated else None
        return [c.step == best for c in checkpoints]


class LatestSlots:
    """Orbax policy: the latest two checkpoints at multiples of `every` stay. What else is saved, when a run is stopped,
    must not decide how far another can go back."""

    def __init__(self, every: int):
        self.every = every

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """One answer for each checkpoint."""
        del context
        slots = sorted(c.step for c in checkpoints if c.step % self.every == 0)
        return [c.step in slots[-2:] for c in checkpoints]


class Checkpoints:
    """The folder `checkpoints/<step>/` of a run. The latest two stay, so that a damaged one has a predecessor.

    directory: where the checkpoints lie.
    slots: of the multiples of this the latest two stay as well.
    keep_every: steps that are multiples of this stay too, for ever.
    best: an evaluation metric such as "eval/retrieval/text_to_image/recall@1", by which the best one stays too;
        `best_is` says whether "highest" or "lowest" is best. Numbers come by `rate`.
    deadline: seconds within which all processes must have written their parts.
    read_only: nothing is created, removed or written, so that a run in progress is not disturbed.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        *,
        slots: int | None = None,
        keep_every: int | None = None,
        best: str | None = None,
        best_is: str = "highest",
        deadline: float = Deadlines.save,
        read_only: bool = False,
    ):
        if read_only and not directory.is_dir():
            raise CheckpointError(f"no folder {directory}")
        self.best, self.sign = best, 1.0 if best_is == "highest" else -1.0
        self.scores: dict[int, float] = {}
        policies = [LatestN(2), BestScore(self.scores), *([EveryNSteps(keep_every)] if keep_every else [])]
        policies += [LatestSlots(slots)] if slots else []
        self.outcome = Outcome() if jax.process_count() > 1 and not read_only else None
        self.compiled: tuple[dict[str, jax.ShapeDtypeStruct], Callable[[Any], Any]] = ({}, checksums)
        options = ocp.CheckpointManagerOptions(
            async_options=ocp.AsyncOptions(timeout_secs=max(1, int(deadline)), barrier_sync_fn=self.outcome),
            preservation_policy=AnyPreservationPolicy(policies),
            read_only=read_only,
            create=not read_only,
            cleanup_tmp_directories=not read_only,
        )
        self.manager = ocp.CheckpointManager(directory.absolute(), options=options)

    def rate(self, step: int, numbers: Mapping[str, Any]) -> None:
        """Tells what evaluations gave at a step; other numbers may be among them. Every process must be told the
        same."""
        value = numbers.get(self.best) if self.best else None
        if value is not None and math.isfinite(value):
            self.scores[step] = self.sign * value

    def latest(self) -> int | None:
        """The last complete step, or None."""
        return self.manager.latest_step()

    def steps(self) -> list[int]:
        """The complete ones, in order."""
        return sorted(self.manager.all_steps())

    def go_back(self, step: int, state: TrainState) -> TrainState:
        """The state saved at a step, in the layout of `state`; those that came later are removed, the last one first,
        so that a run that is killed meanwhile goes on from one that there was."""
        restored = self.restore(state, step)
        for later in reversed(self.steps()):
            if later > step:
                self.manager.delete(later)
        return restored

    def prepare(self, state: TrainState) -> None:
        """Compiles what a save of such a state computes, which otherwise the first one has to wait for."""
        arrays = abstract(rules.flatten(state))
        self.compiled = (arrays, compiled_checksums().lower(arrays).compile())

    def save(self, step: int, state: TrainState) -> None:
        """Starts writing and returns when the arrays are copied; the state may then be overwritten. If the save before
        this one has failed meanwhile, on any process, there is none of that step on all of them, and that is said.

        Raises CheckpointError if this save cannot begin. Of several processes one alone could not go on then: it ends
        with whatever it was.
        """
        failure = self.settle()
        if step == self.latest():
            return
        arrays = rules.flatten(state)
        prepared, compiled = self.compiled
        summed = (compiled if abstract(arrays) == prepared else checksums)(arrays)
        sums = {k: int(v) for k, v in jax.device_get(summed).items()}
        if self.outcome is not None:
            self.outcome.begin()
        with writing() if self.outcome is None else contextlib.nullcontext():
            self.manager.save(step, args=ocp.args.StandardSave(arrays), custom_metadata={"checksums": sums})
        if failure:
            say(f"warning: {failure}; step {step} is saved instead")

    def settle(self) -> str:
        """Waits for the save in progress; each process must call. If it failed, what it left is removed, which may be
        what fills the disk, and the reasons of all processes are returned."""
        reasons = [part.decode() for part in gathered(self.failure().encode())]
        if not any(reasons):
            return ""
        self.sweep()
        self.manager.reload()
        if len(reasons) == 1:
            return reasons[0]
        told = {f"process {i}": reason for i, reason in enumerate(reasons) if reason}
        first = {process: reason for process, reason in told.items() if NotSaved.__name__ not in reason}
        return "; ".join(f"{process}: {reason}" for process, reason in (first or told).items())

    def failure(self) -> str:
        """Waits for this process's part of the save in progress. Says what it failed with, if it did."""
        reason = ""
        for _ in range(TOLD):
            try:
                with writing():
                    self.manager.wait_until_finished()
                    self.manager.check_for_errors()
                break
            except CheckpointError as error:
                reason = reason or str(error)
        return reason

    def sweep(self) -> None:
        """Removes what saves that failed have left. Threads of such a save may go on writing files for a while after
        another of them has failed, so that removal is tried again."""
        deadline = time.monotonic() + SWEEP
        while jax.process_index() == 0 and (left := [*self.manager.directory.glob("*.orbax-checkpoint-tmp")]):
            for partial in left:
                shutil.rmtree(partial, ignore_errors=True)
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)

    def restore(self, state: TrainState, step: int | None = None) -> TrainState:
        """The saved state in the layout of `state`, whose leaves say shape, dtype and placement.

        Raises CheckpointError if there is none, or if any array is missing, left over, or of another shape or dtype;
        DamagedCheckpoint if it cannot be read or any bit of it is not as it was.
        """
        wanted = rules.flatten(state)
        step = self.available(step)
        with self.reading(step):
            self.compare(wanted, step, where=f"checkpoint {self.manager.directory}/{step}")
            values = self.read(wanted, step)
        with self.reading(step):
            self.verify(values, step)
        return jax.tree.unflatten(jax.tree.structure(state), [values[k] for k in wanted])

    def restore_newest(self, state: TrainState) -> TrainState:
        """The newest checkpoint that is whole. Damaged ones are moved to the folder `damaged` beside this one, and said
        to be."""
        for step in reversed(self.steps()):
            try:
                return self.restore(state, step)
            except DamagedCheckpoint as error:
                aside = self.manager.directory.parent / "damaged" / str(step)
                say(f"warning: {error}\n  It is now {aside}; the one before it is used.")
                if jax.process_index() == 0:
                    aside.parent.mkdir(exist_ok=True)
                    shutil.rmtree(aside, ignore_errors=True)  # of an earlier time that this step was damaged
                    (self.manager.directory / str(step)).rename(aside)
                multihost_utils.sync_global_devices("set aside")
                self.manager.reload()
        raise CheckpointError(f"no checkpoint in {self.manager.directory} is whole; to start anew, remove that folder")

    def read(self, arrays: Mapping[str, Any], step: int) -> dict[str, jax.Array]:
        """Arrays of a checkpoint, of each the parts that lie on this process. It may fail on one process alone, so none
        waits for another here, as it would in Orbax's `Checkpointer`."""
        shapes = abstract(arrays)
        restore = ocp.args.PyTreeRestore(
            shapes, restore_args=ocp.checkpoint_utils.construct_restore_args(shapes), partial_restore=True
        )
        return ocp.PyTreeCheckpointHandler().restore(self.manager.directory / str(step) / "default", args=restore)

    @contextlib.contextmanager
    def reading(self, step: int) -> Iterator[None]:
        """Errors of Orbax and TensorStore, which come in all kinds, as DamagedCheckpoint; on all processes if on
        one."""
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        if isinstance(failure, CheckpointError) and not isinstance(failure, DamagedCheckpoint):
            raise failure
        if everywhere(failure is None):
            return
        told = "another process could not read it" if failure is None else f"{type(failure).__name__}: {failure}"
        raise DamagedCheckpoint(f"checkpoint {self.manager.directory}/{step} is damaged ({told})") from failure

    def verify(self, values: Mapping[str, jax.Array], step: int) -> None:
        """Raises DamagedCheckpoint, on all processes, if an array is not what was saved; each must call. (Checkpoints
        that `bigcl.convert` made have no checksums.)"""
        saved = (self.manager.metadata(step).custom_metadata or {}).get("checksums", {})
        found = jax.device_get(checksums({k: v for k, v in values.items() if k in saved}))
        if changed := [k for k, v in found.items() if int(v) != saved[k]]:
            raise DamagedCheckpoint(f"{len(changed)} arrays differ from what was saved, {changed[0]} first")

    def restore_params(
        self,
        params: Arrays,
        only: Sequence[str] = (".*",),
        step: int | None = None,
        prefix: tuple[str, str] = ("", ""),
        fronts: Mapping[str, int] = {},
    ) -> Arrays:
        """`params` with those that match one of the patterns `only` taken from this checkpoint; every match must be
        there and fit.

        prefix: what the paths of these begin with in `params`, and what they begin with here in its place.
        fronts: paths in `params` of positions of a square of patches, each with how many stand before the square. Of
            another square here, they are resized, which is said.
        """
        own, theirs = prefix
        step = self.available(step)
        taken = rules.match([*((p, True) for p in only), (".*", False)], params, what="checkpoint.init_only")
        chosen: dict[str, Any] = {f"params/{theirs}{k.removeprefix(own)}": v for k, v in params.items() if taken[k]}
        squares = {f"params/{theirs}{k.removeprefix(own)}": front for k, front in fronts.items() if taken.get(k)}
        chosen |= self.as_saved({k: (chosen[k], front) for k, front in squares.items()}, step)
        self.compare(chosen, step, where=f"init from {self.manager.directory}/{step}", partial=True)
        with self.reading(step):
            values = self.read(chosen, step)
        with self.reading(step):
            self.verify(values, step)
        for key, front in squares.items():
            values[key] = self.resize(values[key], front, params[own + key.removeprefix(f"params/{theirs}")], key)
        return {**params, **{own + k.removeprefix(f"params/{theirs}"): v for k, v in values.items()}}

    def as_saved(self, squares: Mapping[str, tuple[jax.Array, int]], step: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Of positions of squares of patches those that have another shape here, in that shape, whole on each
        device."""
        found, saved = {}, self.saved_arrays(step) if squares else {}
        for key, (wanted, front) in squares.items():
            shape = saved[key].shape if key in saved else wanted.shape
            fits = len(shape) == 2 and shape[1] == wanted.shape[1] and square(shape[0], front)
            if fits and shape != wanted.shape and square(len(wanted), front):
                where = wanted.sharding
                where = NamedSharding(where.mesh, PartitionSpec()) if isinstance(where, NamedSharding) else where
                found[key] = jax.ShapeDtypeStruct(shape, wanted.dtype, sharding=where)
        return found

    def resize(self, value: jax.Array, front: int, wanted: jax.Array, key: str) -> jax.Array:
        """Positions for another square of patches than they were trained for, said."""
        if value.shape == wanted.shape:
            return value
        side = square(len(wanted), front)
        assert side is not None
        new, said = resized(np.asarray(value), front, side)
        if jax.process_index() == 0:
            say(f"warning: {said}: {key} of {self.manager.directory} is not what was trained there")
        return jax.device_put(new.astype(wanted.dtype), wanted.sharding)

    def saved_arrays(self, step: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of each array of a checkpoint."""
        metadata = ocp.PyTreeCheckpointer().metadata(self.manager.directory / str(step) / "default").item_metadata.tree
        return {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in metadata.items()}

    def available(self, step: int | None) -> int:
        """`step`, or the latest; an error that lists what there is if it is not there."""
        steps = self.steps()
        if not steps or (step is not None and step not in steps):
            what = "checkpoint" if step is None else f"checkpoint of step {step}"
            raise CheckpointError(f"no {what} in {self.manager.directory}; there are: {steps}")
        return self.manager.latest_step() if step is None else step

    def compare(self, wanted: Mapping[str, Any], step: int, where: str, partial: bool = False) -> None:
        """Raises CheckpointError with all differences between the arrays wanted and those saved; partial: of the arrays
        wanted alone, which may be of another dtype, as those of other libraries are."""
        saved = self.saved_arrays(step)
        lines = [f"  missing    {k} {tuple(v.shape)}" for k, v in wanted.items() if k not in saved]
        lines += [f"  left over  {k} {v.shape}" for k, v in saved.items() if k not in wanted and not partial]
        for k, v in wanted.items():
            if k in saved and saved[k].shape != tuple(v.shape):
                lines.append(f"  shape      {k}: saved {saved[k].shape}, wanted {tuple(v.shape)}")
            elif k in saved and saved[k].dtype != v.dtype and not partial:
                lines.append(f"  dtype      {k}: saved {saved[k].dtype}, wanted {v.dtype}")
        if lines:
            raise CheckpointError(f"{where} does not fit this config:\n" + "\n".join(lines))

    def close(self) -> None:
        """Waits for what is being written; raises if a save failed."""
        with writing():
            self.manager.wait_until_finished()
        self.manager.close()


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Errors of a save as CheckpointError."""
    try:
        yield
    except Exception as error:
        reason = str(error).split(" [tensorstore_spec=")[0]
        raise CheckpointError(f"a checkpoint could not be written ({type(error).__name__}: {reason})") from error


def say(text: str) -> None:
    """Prints a warning, unless that goes to a disk that is full."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def host_bytes(state: TrainState) -> int:
    """What a save copies to this process's memory until it is on the disk: the parts of the state that this process
    writes, once each however many devices hold them."""
    return sum(
        shard.data.nbytes for x in jax.tree.leaves(state) for shard in x.addressable_shards if shard.replica_id == 0
    )


def checksums(arrays: Mapping[str, Array]) -> dict[str, UInt32[Array, ""]]:
    """A number for each array that changes with any single bit, and most likely with any other change: the sum, modulo
    2^32, of its words times odd weights of their places. It is the same however the array is sharded."""
    return compiled_checksums()(arrays)


@functools.cache
def compiled_checksums() -> Any:
    """The function under `jax.jit`. On a CPU without XLA's rewriting of sums as sums of 32 each, which writes all terms
    to memory, as much as the state, and takes ten times as long."""

    def checksum(x: Array) -> UInt32[Array, ""]:
        bits = min(8 * x.dtype.itemsize, 32)
        words = x.astype(jnp.uint8) if x.dtype == bool else jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{bits}"))
        place = jnp.zeros(words.shape, jnp.uint32)
        for axis, size in enumerate(words.shape):
            place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        weight = (place * jnp.uint32(2654435761)) | jnp.uint32(1)  # Knuth's multiplier: neighbours get far weights
        return (words.astype(jnp.uint32) * weight).sum(dtype=jnp.uint32)

    options = {"xla_disable_hlo_passes": "tree_reduction_rewriter"} if jax.default_backend() == "cpu" else None
    return jax.jit(functools.partial(jax.tree.map, checksum), compiler_options=options)


def abstract(arrays: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes, dtypes and placements."""
    return {k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=v.sharding) for k, v in arrays.items()}

"""Checkpoints: written by Orbax while training goes on, restored strictly."""

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, EveryNSteps, LatestN

from bigcl import rules
from bigcl.state import Arrays, TrainState


class CheckpointError(RuntimeError):
    """A checkpoint that is not there, or does not fit; the message lists every difference."""


class Checkpoints:
    """The folder `checkpoints/<step>/` of a run.

    directory: where the checkpoints lie.
    keep_every: steps that are multiples of this stay for ever; besides them the latest and, with `best`, the best stay.
    best: an evaluation metric such as "eval/retrieval/text_to_image/recall@1"; `best_is` says whether "highest" or
        "lowest" is best.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        *,
        keep_every: int | None = None,
        best: str | None = None,
        best_is: str = "highest",
    ):
        policies: list[Any] = [LatestN(1)]
        if keep_every:
            policies.append(EveryNSteps(keep_every))
        sign = 1.0 if best_is == "highest" else -1.0

        def score(metrics: Mapping[str, float]) -> float:
            return sign * metrics.get(best or "", -sign * float("inf"))

        if best:  # Orbax keeps the last of the sorted list; a checkpoint without the metric sorts first
            policies.append(BestN(n=1, get_metric_fn=score, keep_checkpoints_without_metrics=False))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy(policies),
            best_fn=score if best else None,  # else Orbax forgets the metrics when the run ends
            cleanup_tmp_directories=True,
        )
        self.manager = ocp.CheckpointManager(directory.absolute(), options=options)

    def latest(self) -> int | None:
        """The last complete step, or None."""
        return self.manager.latest_step()

    def save(self, step: int, state: TrainState, metrics: Mapping[str, float]) -> None:
        """Starts writing and returns when the arrays are copied; the state may then be overwritten."""
        if step != self.latest():
            self.manager.save(step, args=ocp.args.StandardSave(rules.flatten(state)), metrics=dict(metrics))

    def restore(self, state: TrainState, step: int | None = None) -> TrainState:
        """The saved state in the layout of `state`, whose leaves say shape, dtype and placement.

        Raises CheckpointError if there is none, or if any array is missing, left over, or of another shape.
        """
        wanted = rules.flatten(state)
        step = self.available(step)
        self.compare(wanted, step, where=f"checkpoint {self.manager.directory}/{step}")
        values = self.manager.restore(step, args=ocp.args.StandardRestore(abstract(wanted)))
        return jax.tree.unflatten(jax.tree.structure(state), [values[k] for k in wanted])

    def restore_params(self, params: Arrays, only: Sequence[str] = (".*",), step: int | None = None) -> Arrays:
        """`params` with those that match one of the patterns `only` taken from this checkpoint; every match must be
        there and fit."""
        step = self.available(step)
        chosen = {f"params/{k}": v for k, v in params.items() if any(rules.matches(p, k) for p in only)}
        for pattern in only:
            if not any(re.fullmatch(pattern, k) for k in params):
                near = rules.nearest_path(pattern, list(params))
                raise CheckpointError(f"checkpoint.init_only: pattern {pattern!r} matches no parameter; {near}")
        self.compare(chosen, step, where=f"init from {self.manager.directory}/{step}", partial=True)
        restore = ocp.args.PyTreeRestore(
            abstract(chosen),
            restore_args=ocp.checkpoint_utils.construct_restore_args(abstract(chosen)),
            partial_restore=True,
        )
        values = ocp.PyTreeCheckpointer().restore(self.manager.directory / str(step) / "default", restore)
        return {**params, **{k.removeprefix("params/"): v for k, v in values.items()}}

    def available(self, step: int | None) -> int:
        """`step`, or the latest; an error that lists what there is if it is not there."""
        steps = self.manager.all_steps()
        if not steps or (step is not None and step not in steps):
            what = "checkpoint" if step is None else f"checkpoint of step {step}"
            raise CheckpointError(f"no {what} in {self.manager.directory}; there are: {sorted(steps)}")
        return self.manager.latest_step() if step is None else step

    def compare(self, wanted: Mapping[str, Any], step: int, where: str, partial: bool = False) -> None:
        """Raises CheckpointError with all differences between the arrays wanted and those saved."""
        metadata = ocp.PyTreeCheckpointer().metadata(self.manager.directory / str(step) / "default").item_metadata.tree
        saved = {k: tuple(v.shape) for k, v in metadata.items()}
        lines = [f"  missing    {k} {tuple(v.shape)}" for k, v in wanted.items() if k not in saved]
        lines += [f"  left over  {k} {s}" for k, s in saved.items() if k not in wanted and not partial]
        lines += [
            f"  shape      {k}: saved {saved[k]}, wanted {tuple(v.shape)}"
            for k, v in wanted.items()
            if k in saved and saved[k] != tuple(v.shape)
        ]
        if lines:
            raise CheckpointError(f"{where} does not fit this config:\n" + "\n".join(lines))

    def close(self) -> None:
        """Waits for what is being written; raises if a save failed."""
        self.manager.wait_until_finished()
        self.manager.close()


def abstract(arrays: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes, dtypes and placements."""
    return {k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=v.sharding) for k, v in arrays.items()}

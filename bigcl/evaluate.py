"""Evaluates a run: `python -m bigcl.evaluate --workdir runs/emoji [--step N]` gives its own evaluators' numbers again;
`python -m bigcl.evaluate --checkpoint runs/emoji --suite configs/evals/emoji.py --out results/` those of a suite."""

from bigcl import host

if __name__ == "__main__":
    host.prepare()

import argparse
import hashlib
import json
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from absl import logging

from bigcl.registry import ConfigError

if TYPE_CHECKING:
    from bigcl.experiment import Experiment
    from bigcl.state import TrainState


def main() -> None:
    """Restores a checkpoint of the run and prints the numbers of all its evaluators, or of a suite."""
    logging.set_verbosity(logging.ERROR)  # Orbax tells at length of every folder it only reads
    parser = argparse.ArgumentParser(prog="python -m bigcl.evaluate", description=__doc__)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--workdir", type=pathlib.Path, help="the folder of a run")
    where.add_argument(
        "--checkpoint",
        type=pathlib.Path,
        help="the folder of a run, of one of its checkpoints, or of converted weights",
    )
    parser.add_argument("--step", type=int, help="a step that has a checkpoint; default: the latest")
    parser.add_argument("--json", action="store_true", help="print JSON, not a table")
    parser.add_argument("--suite", help="a suite file with its arguments, configs/evals/emoji.py:arg")
    parser.add_argument("--out", type=pathlib.Path, help="folder for the results of the suite")
    args = parser.parse_args()
    if (args.suite is None) != (args.out is None):
        parser.error("--suite and --out go together")
    from bigcl.checkpoint import CheckpointError

    try:
        workdir, step = locate(args.workdir or args.checkpoint, args.step)
        if args.suite is not None:
            suite(workdir, step, args.suite, args.out)
            return
        step, numbers = evaluate(workdir, step)
    except (ValueError, ImportError, OSError, CheckpointError) as error:
        sys.exit(f"error: {error}")
    import jax

    if jax.process_index():
        return
    if args.json:
        print(json.dumps({"step": step, **numbers}, indent=1))
        return
    print(f"step {step}")
    width = max(map(len, numbers), default=0)
    for name, value in numbers.items():
        print(f"  {name:<{width}}  {value:.4f}")


def evaluate(workdir: pathlib.Path, step: int | None = None) -> tuple[int, dict[str, float]]:
    """The step, and the numbers of all evaluators of the run, the same as the run itself gave at that step."""
    experiment, state = restore(workdir, step)
    return int(state.step), experiment.evaluate(state)


def suite(workdir: pathlib.Path, step: int | None, argument: str, out: pathlib.Path) -> None:
    """Runs a suite on a checkpoint, as far as it is not done yet, and prints the table. Weights that no run of bigcl
    made are evaluated as they come, in what `bigcl.convert` or an exporter wrote."""
    import jax

    from bigcl.interop.files import read_json
    from bigcl.pretrained import Pretrained, preparation
    from bigcl.suite import Inputs, read_suite, run_suite

    record = workdir / "config.json"
    model: dict[str, Any] = {"run": str(workdir.resolve())}
    config = read_json(record) if record.exists() else {}
    if "train" in config:
        experiment, state = restore(workdir, step, evals={})
        shapes = {name: x.shape[1:] for name, x in experiment.loader.spec().items() if name != "index"}
        inputs = Inputs(shapes, preparation(config))
        encode, context = experiment.encoder(state), {"tokenizer": experiment.tokenizer, "mesh": experiment.mesh}
        model |= {"step": int(state.step), "config": hashlib.sha256(record.read_bytes()).hexdigest()[:16]}
    else:
        host.configure_jax()
        host.join_cluster()
        opened = Pretrained.open(workdir, step)
        encode, inputs = opened.encode, Inputs(opened.shapes, opened.transforms)
        context = {"tokenizer": opened.tokenizer, "mesh": opened.mesh}
        model |= opened.identity
    say = print if jax.process_index() == 0 else (lambda line: None)
    _, skipped, failed = run_suite(read_suite(argument, inputs), encode, out, model=model, say=say, **context)
    say(f"results: {out / 'results.md'}" + (f", {len(skipped)} skipped: see its end" if skipped else ""))
    if failed:
        sys.exit(f"error: {len(failed)} of the suite failed: {', '.join(name for name, _ in failed)}")


def locate(folder: pathlib.Path, step: int | None) -> tuple[pathlib.Path, int | None]:
    """Workdir and step of a run's folder, of its folder of checkpoints, or of one checkpoint."""
    if (folder / "config.json").exists():
        return folder, step
    if folder.name == "checkpoints":
        return folder.parent, step
    if folder.parent.name == "checkpoints" and folder.name.isdigit():
        return folder.parent.parent, int(folder.name) if step is None else step
    return folder, step


def restore(workdir: pathlib.Path, step: int | None = None, **sections: Any) -> "tuple[Experiment, TrainState]":
    """The experiment of a run and its state at a step. sections: instead of those of its config."""
    from bigcl.experiment import Experiment

    path = workdir / "config.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is not there; the folder of a run is what was given to bigcl.train as --workdir"
        )
    config = Experiment.resolve(json.loads(path.read_text()))
    host.configure_jax()
    host.join_cluster()
    experiment = Experiment(**{**config, "mesh": fitting(config["mesh"]), **sections})
    checkpoints = experiment.checkpoints(workdir, read_only=True)
    state = checkpoints.restore(experiment.state_shapes, step)
    checkpoints.close()
    return experiment, state


def fitting(mesh: dict[str, Any]) -> dict[str, Any]:
    """The mesh of the run, or where there are other devices than it had, all of them for data."""
    from bigcl.mesh import make_mesh

    try:
        make_mesh(**mesh)
        return mesh
    except ConfigError:
        return {**mesh, "replica": None, "data": -1, "fsdp": 1, "tensor": 1}


if __name__ == "__main__":
    main()

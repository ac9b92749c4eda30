"""Evaluates a run: `python -m bigcl.evaluate --workdir runs/emoji [--step N]`."""

from bigcl import host

if __name__ == "__main__":
    host.prepare()

import argparse
import json
import pathlib
import sys
from typing import Any

from bigcl.registry import ConfigError


def main() -> None:
    """Restores a checkpoint of the run and prints the numbers of all its evaluators."""
    parser = argparse.ArgumentParser(prog="python -m bigcl.evaluate", description=__doc__)
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="the folder of a run")
    parser.add_argument("--step", type=int, help="a step that has a checkpoint; default: the latest")
    parser.add_argument("--json", action="store_true", help="print JSON, not a table")
    args = parser.parse_args()
    from bigcl.checkpoint import CheckpointError

    try:
        step, numbers = evaluate(args.workdir, args.step)
    except (ConfigError, CheckpointError, FileNotFoundError) as error:
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
    from bigcl.experiment import Experiment

    path = workdir / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; --workdir is the folder that was given to bigcl.train")
    config = Experiment.resolve(json.loads(path.read_text()))
    host.configure_jax()
    host.join_cluster()
    experiment = Experiment(**{**config, "mesh": fitting(config["mesh"])})
    checkpoints = experiment.checkpoints(workdir, read_only=True)
    state = checkpoints.restore(experiment.state_shapes, step)
    checkpoints.close()
    return int(state.step), experiment.evaluate(state)


def fitting(mesh: dict[str, Any]) -> dict[str, Any]:
    """The mesh of the run, or where there are other devices than it had, all of them for data."""
    from bigcl.mesh import make_mesh

    try:
        make_mesh(**mesh)
        return mesh
    except ConfigError:
        return {**mesh, "replica": 1, "data": -1, "fsdp": 1, "tensor": 1}


if __name__ == "__main__":
    main()

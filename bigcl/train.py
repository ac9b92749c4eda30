"""Trains: `python -m bigcl.train --config configs/emoji.py --workdir runs/emoji [--config.optim.lr=3e-4 ...]`.

--config   a config file; its arguments follow a colon, as in configs/siglip.py:size=B/16,batch=4096 (`smoke`: seconds)
--workdir  where the run lives: config, metrics, checkpoints, report. The same command goes on from what is there.
--config.KEY=VALUE  any key of the resolved config, as in --config.train.steps=1000 or --config.mesh.fsdp=8
"""

from bigcl import host

if __name__ == "__main__":
    host.prepare()

import json
import os
import pathlib
import platform
import re
import signal
import sys
import time
from typing import Any

from absl import app, flags, logging

from bigcl import command, stages
from bigcl import config as configs
from bigcl.files import check_writable
from bigcl.registry import ConfigError

WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where the run lives: config, metrics, checkpoints, report.", required=True
)


def main(argv: list[str]) -> None:
    """Trains or resumes the run in `--workdir`, evaluates it and writes its report."""
    from bigcl.checkpoint import CheckpointError
    from bigcl.data.quarantine import TooManyBadRecords
    from bigcl.data.sources import BadRecord
    from bigcl.divergence import Diverged
    from bigcl.notice import Interrupted

    logging.set_verbosity(logging.WARNING)  # Orbax tells at length of every save
    again = " ".join(["python -m bigcl.train", *sys.argv[1:]])
    try:
        if len(argv) > 1:
            raise ConfigError(f"unexpected argument {argv[1]!r}; write overrides as --config.key=value")
        run(command.given_config(), pathlib.Path(WORKDIR.value))
    except Interrupted as stop:
        print(f"{stop}. To go on from there, run the same command again:\n  {again}", file=sys.stderr)
        sys.exit(130 if stop.signal == signal.SIGINT else host.REQUEUE)
    except KeyboardInterrupt:
        print(f"\nstopped at once. To go on from the last checkpoint, run it again:\n  {again}", file=sys.stderr)
        sys.exit(130)
    except (ConfigError, CheckpointError, FileNotFoundError, ImportError) as error:
        sys.exit(f"error: {error}")
    except (Diverged, TooManyBadRecords, BadRecord) as error:
        sys.exit("\n  ".join([f"error: {error}", *getattr(error, "__notes__", ())[:1]]))


def run(config: dict[str, Any], workdir: pathlib.Path, report: bool = True) -> None:
    """Checks the config, trains, writes the report. On a finished run it says so and changes nothing.

    A config of several stages trains them one after the other, each in a folder of its own.
    """
    import jax

    from bigcl.experiment import Experiment
    from bigcl.notice import PREEMPTION, Notice
    from bigcl.trainer import Trainer
    from bigcl.watchdog import LATER, Deadlines, Watchdog

    config = stages.resolved(config)
    configs.check_given(config)
    if re.match(r"\w+:/", str(workdir)):
        raise ConfigError(
            f"--workdir {workdir}: expected a folder; mount the bucket (gcsfuse) and give the folder there"
        )
    try:
        check_writable(workdir)
    except OSError as error:
        raise ConfigError(f"--workdir {workdir} cannot be written: {error.strerror}; choose another") from error
    folders = {name: workdir / name for name in config.get("stages", ())}
    parts = [(stages.filled(config["stages"][name], folders), path) for name, path in folders.items()]
    parts = parts or [(config, workdir)]
    host.configure_jax()
    start = Deadlines(**parts[0][0]["deadlines"]).start
    with Notice().kept(*PREEMPTION) as notice:
        with Watchdog(workdir, *host.place_in_job(os.environ)) as watchdog:
            watchdog.doing("joining the other processes", start)
            host.join_cluster(start + LATER)
        for part, folder in parts:
            with Watchdog(folder, jax.process_index(), jax.process_count()) as watchdog:
                watchdog.doing("agreeing with the other processes", start)
                host.agree({"config": part, "workdir": str(folder), "versions": host.versions()})
                experiment = Experiment(**part)
                check(experiment)
                notice.obey("before training")
                complete(Trainer(experiment, folder, watchdog, notice), part, report)


def check(experiment: Any) -> None:
    """Stops a run whose processes see other data or another mesh than each other, or whose devices compute the global
    loss wrong, which neighbours that receive each other's features do unseen. Raises ConfigError."""
    import jax

    from bigcl.doctor import loss_check

    host.agree({"data": experiment.data_identity(), "mesh": experiment.mesh_identity()})
    if jax.device_count() > 1 or jax.default_backend() != "cpu":
        found = loss_check(experiment.mesh)
        if not host.everywhere("WRONG" not in found):
            raise ConfigError(
                f"process {jax.process_index()} on {platform.node()}: {found}; see python -m bigcl.doctor"
            )


def complete(trainer: Any, config: dict[str, Any], with_report: bool = True) -> None:
    """Does what is left to do of a run."""
    experiment, workdir = trainer.experiment, trainer.workdir
    steps, report = experiment.train.steps, workdir / "report.html"
    done = trainer.checkpoints.latest() or 0
    if done >= steps and host.agreed(report.exists() or not with_report):
        print(f"{workdir} is finished: step {done} of {steps}. Report: {report}")
        print("For another run, choose another --workdir; to train longer, raise --config.train.steps.")
        return
    state = trainer.restore_or_init()  # refuses what does not fit before anything in the workdir is changed
    announce(config, experiment, workdir)
    began = time.monotonic()
    state = trainer.run(state)
    trainer.notice.obey(f"after step {steps}, before the report")
    trainer.watchdog.doing("the report", experiment.deadlines.evaluation)
    if done < steps:
        print(f"trained to step {steps} in {time.monotonic() - began:.0f} s")
    if with_report:
        write_report(experiment, state, workdir)


def announce(config: dict[str, Any], experiment: Any, workdir: pathlib.Path) -> None:
    """Writes `config.json`, `data.json` and `tokenizer.json`; prints what changed since the
    run began, what is about to be trained, on what, and what was derived."""
    import jax

    workdir.mkdir(parents=True, exist_ok=True)
    if jax.process_index() == 0:
        for what, now in (("config", config), ("data", experiment.data_identity())):
            path = workdir / f"{what}.json"
            changed = configs.differences(json.loads(path.read_text()), now) if path.exists() else []
            for line in changed:
                print(f"{what} changed since this run began: {line}")
            configs.save(now, path)
        configs.save(experiment.environment(), workdir / "environment.json")
        if experiment.tokenizer is not None:
            experiment.tokenizer.save(workdir / "tokenizer.json")
        for line in experiment.describe():
            print(line)


def write_report(experiment: Any, state: Any, workdir: pathlib.Path) -> None:
    """Writes `report.html`, with what the last evaluation saw, and prints the final numbers and where the report is."""
    import jax

    from bigcl.log import read_rows
    from bigcl.report import build_report, save_classes, save_gallery
    from bigcl.report.collect import collect, collect_classes, with_heat

    rows = read_rows(workdir / "metrics.jsonl")
    final = {k: v for row in rows if row["step"] == experiment.train.steps for k, v in row.items()}
    gallery = collect(experiment.evaluators, scale=final.get("logit_scale") or 1.0)
    if gallery is not None:
        gallery = with_heat(gallery, experiment, state)
    if jax.process_index() != 0:
        return
    for name, value in final.items():
        if name.startswith("eval/"):
            print(f"  {name.removeprefix('eval/'):<48}{value:.4f}")
    if gallery is not None:
        save_gallery(gallery, workdir / "gallery.npz")
    if (classes := collect_classes(experiment.evaluators)) is not None:
        save_classes(classes, workdir / "classes.npz")
    try:
        print(f"report: {build_report(workdir).absolute()}")
    except ImportError as error:
        print(f"no report: {error}")


if __name__ == "__main__":
    app.run(main, flags_parser=command.parser(__doc__))

"""Trains: `python -m bigcl.train --config configs/emoji.py --workdir runs/emoji [--config.optim.lr=3e-4 ...]`."""

from bigcl import host

if __name__ == "__main__":
    host.prepare()

import json
import pathlib
import sys
import time

from absl import app, flags
from ml_collections import config_flags

from bigcl import config as configs
from bigcl.registry import ConfigError

CONFIG = config_flags.DEFINE_config_file("config", None, "Path of a config file; its argument follows a colon.", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Where the run lives: config, metrics, checkpoints, report.")


def main(argv: list[str]) -> None:
    """Trains or resumes the run of `--workdir`, evaluates it, and writes its report."""
    if len(argv) > 1:
        raise ConfigError(f"unexpected argument {argv[1]!r}; overrides are written --config.key=value")
    config = configs.plain(CONFIG.value)
    run(config, pathlib.Path(WORKDIR.value))


def run(config: dict, workdir: pathlib.Path) -> None:
    """Checks the config, then trains; safe to call again on the same workdir."""
    from bigcl.experiment import Experiment

    Experiment.check(config)
    host.configure_jax()
    from bigcl.trainer import Trainer

    workdir.mkdir(parents=True, exist_ok=True)
    experiment = Experiment(**config)
    trainer = Trainer(experiment, workdir)
    announce(config, experiment, workdir)
    began = time.time()
    if trainer.checkpoints.latest() == experiment.train.steps:
        ...

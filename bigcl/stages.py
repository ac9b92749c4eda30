"""Methods of several stages: `config.stages`, each an ordinary config that starts from what the ones before left.

Stages run in the order of their names, each in the folder WORKDIR/<name>; `{name}` in any string of a later stage
stands for that folder, as in `checkpoint.init_from = "{stage1}"`.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from bigcl.registry import ConfigError


def resolved(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config, or each of its stages, with the defaults filled in. Raises ConfigError for one that cannot work."""
    from bigcl.experiment import Experiment

    if "stages" not in config:
        return Experiment.resolve(config)
    if other := set(config) - {"stages"}:
        raise ConfigError(f"config.{min(other)}: a config of several stages holds nothing but them")
    names = sorted(config["stages"])
    for i, name in enumerate(names):
        stage = config["stages"][name]
        for later in names[i:]:
            if filled(stage, {later: pathlib.Path()}) != filled(stage, {}):
                order = f"stages run in the order of their names, {', '.join(names)}; rename them"
                raise ConfigError(f"config.stages.{name}: reads {{{later}}}, which is not there yet: {order}")
    return {"stages": {name: Experiment.resolve(config["stages"][name]) for name in names}}


def choose(config: dict[str, Any], name: str | None) -> dict[str, Any]:
    """The config of the stage `name` (None: the last), or of all there is. Raises ConfigError for one that there is
    not."""
    known = sorted(config.get("stages", ()))
    if name is not None and name not in known:
        raise ConfigError(f"--stage {name}: the config has {', '.join(known) or 'no stages'}")
    return config["stages"][name or known[-1]] if known else config


def last_stage(config: Mapping[str, Any], workdir: pathlib.Path) -> pathlib.Path:
    """The folder with the result of a run."""
    return workdir / max(config["stages"]) if "stages" in config else workdir


def filled(config: Any, folders: Mapping[str, pathlib.Path]) -> Any:
    """A stage's config with `{name}` in its strings replaced by the folder of the stage of that name."""
    if isinstance(config, Mapping):
        return {k: filled(v, folders) for k, v in config.items()}
    if isinstance(config, list):
        return [filled(v, folders) for v in config]
    if isinstance(config, str):
        for name, folder in folders.items():
            config = config.replace(f"{{{name}}}", str(folder))
    return config

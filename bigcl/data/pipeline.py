"""The data section of a config, opened without a model or a device; for the commands that look at data."""

import argparse
import functools
import json
import pathlib
import runpy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from absl import flags
from ml_collections import config_flags

from bigcl import registry
from bigcl.config import no_such_key, overridable, plain, without_defaults
from bigcl.data.loader import BESIDE, Batch, Loader
from bigcl.data.sources import Source
from bigcl.data.tokenizers import Tokenizer
from bigcl.data.transforms import Transform, device
from bigcl.registry import ConfigError, Part


class Pipeline(NamedTuple):
    """What makes the batches of a run. config: plain data."""

    config: dict[str, Any]
    source: Source
    tokenizer: Tokenizer | None
    transforms: list[Transform]
    loader: Loader
    on_device: list[device.DeviceTransform]

    def batch(self, step: int) -> Batch:
        """The batch of a step as the model of a run sees it, with what is random on the device."""
        batch = self.loader.host_batch(step)
        if not self.on_device:
            return batch
        rng = jax.random.fold_in(jax.random.key(self.config.get("seed", 0)), step)
        arrays = {k: v for k, v in batch.items() if k not in BESIDE}
        prepared = jax.jit(functools.partial(device.transform, self.on_device))(arrays, rng)
        return {**batch, **jax.device_get(prepared)}


def source_part(text: str) -> Part:
    """The part of a source, for `argparse`: JSON, or its kind alone."""
    if not text.lstrip().startswith("{"):
        return {"kind": text}
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"{text} is no JSON: {error}") from error


def read_config(argument: str) -> dict[str, Any]:
    """A config file, with its arguments after a colon as for `bigcl.train`, or the `config.json` of a run."""
    file, _, arg = argument.partition(":")
    path = pathlib.Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"--config: no file {file}")
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    return plain(runpy.run_path(file)["get_config"](arg or None))


def parse_args(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """Parsed arguments, in whose `config` is the config of the file that was given, with what --config.KEY=VALUE says
    as for `bigcl.train`; `config_file` is the file.

    Raises FileNotFoundError, and ConfigError for a key that there is not.
    """
    args, overrides = parser.parse_known_args(argv)
    args.config_file = args.config
    if args.config is not None:
        args.config = overridden(read_config(args.config), overrides)
    elif overrides:
        parser.error(f"unrecognized arguments: {' '.join(overrides)}")
    return args


def overridden(config: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A config with what flags like --config.data.workers=4 set; they may name what the config leaves to defaults."""
    if not overrides:
        return config
    from bigcl.experiment import Experiment

    resolved = plain(registry.resolve(Experiment, config))
    values, argv = flags.FlagValues(), ["", *overrides]
    try:
        holder = config_flags.DEFINE_config_dict(
            "config", overridable(resolved), flag_values=values, sys_argv=argv, lock_config=True
        )
        rest = values(argv)[1:]
    except (AttributeError, KeyError) as error:
        raise ConfigError(no_such_key(error)) from error
    except flags.Error as error:
        raise ConfigError(str(error)) from error
    if rest:
        raise ConfigError(f"unexpected argument {rest[0]!r}; write overrides as --config.key=value")
    return without_defaults(plain(holder.value), resolved, config)


def open_source(part: Any) -> Source:
    """The source of a part. Raises ConfigError."""
    return registry.build("source", part)


def open_pipeline(config: dict[str, Any]) -> Pipeline:
    """Source, tokenizer, transforms and loader of a config, for all rows of its batches."""
    data = section(config, "data")
    source = open_source(section(data, "source", "data"))
    part = config.get("tokenizer")
    tokenizer = None if part is None else registry.build("tokenizer", part)
    transforms = [registry.build("transform", t, tokenizer=tokenizer) for t in data.get("transforms", ())]
    options = {k: data[k] for k in ("workers", "prefetch", "block", "window", "repeats") if k in data}
    batch = section(section(config, "train"), "batch", "train")
    loader = Loader(source, transforms, batch=batch, seed=config.get("seed", 0), **options)
    return Pipeline(config, source, tokenizer, transforms, loader, device.build(data.get("device", ())))


def section(config: Mapping[str, Any], key: str, where: str = "config") -> Any:
    """A key that has to be there."""
    if key not in config:
        raise ConfigError(f"{where}: missing key {key!r}")
    return config[key]


def config_argument(parser: argparse.ArgumentParser) -> None:
    """The argument --config."""
    parser.add_argument(
        "--config",
        required=True,
        help="a config file, as for bigcl.train, or a run's config.json; --config.KEY=VALUE changes it",
    )

"""The data section of a config, opened without a model or a device; for the commands that look at data."""

import argparse
import json
import pathlib
import runpy
from collections.abc import Mapping
from typing import Any, NamedTuple

from bigcl import registry
from bigcl.config import plain
from bigcl.data.loader import Loader
from bigcl.data.sources import Source
from bigcl.data.tokenizers import Tokenizer
from bigcl.data.transforms import Transform
from bigcl.registry import ConfigError


class Pipeline(NamedTuple):
    """What makes the batches of a run. config: the file as plain data."""

    config: dict[str, Any]
    source: Source
    tokenizer: Tokenizer | None
    transforms: list[Transform]
    loader: Loader


def read_config(argument: str) -> dict[str, Any]:
    """A config file, with its arguments after a colon as for `bigcl.train`, or the `config.json` of a run."""
    file, _, arg = argument.partition(":")
    path = pathlib.Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"--config: no file {file}")
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    return plain(runpy.run_path(file)["get_config"](arg or None))


def open_source(part: Any) -> Source:
    """The source of a part. Raises ConfigError."""
    return registry.build("source", part)


def open_pipeline(argument: str) -> Pipeline:
    """Source, tokenizer, transforms and loader of a config file, for all rows of its batches."""
    config = read_config(argument)
    data = section(config, "data")
    source = open_source(section(data, "source", "data"))
    part = config.get("tokenizer")
    tokenizer = None if part is None else registry.build("tokenizer", part)
    transforms = [registry.build("transform", t, tokenizer=tokenizer) for t in data.get("transforms", ())]
    options = {k: data[k] for k in ("workers", "prefetch", "block", "window", "repeats") if k in data}
    batch = section(section(config, "train"), "batch", "train")
    loader = Loader(source, transforms, batch=batch, seed=config.get("seed", 0), **options)
    return Pipeline(config, source, tokenizer, transforms, loader)


def section(config: Mapping[str, Any], key: str, where: str = "config") -> Any:
    """A key that has to be there."""
    if key not in config:
        raise ConfigError(f"{where}: missing key {key!r}")
    return config[key]


def config_argument(parser: argparse.ArgumentParser) -> None:
    """The argument --config."""
    parser.add_argument("--config", required=True, help="a config file, as for bigcl.train, or a run's config.json")

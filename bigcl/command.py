"""The flag `--config` of the commands: a config file with its arguments, its defaults filled in, and overrides."""

import pathlib
import runpy
import sys
from collections.abc import Callable
from typing import Any

from absl import app, flags
from ml_collections import config_flags

from bigcl import config as configs
from bigcl.registry import ConfigError

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A config file; its argument follows a colon: configs/emoji.py:smoke.", lock_config=True
)

LOADED: dict[str, Any] = {}
"""The config file as it was written (`original`) and with all defaults (`resolved`), before flags changed it."""


def given_config() -> dict[str, Any]:
    """The config that the command line gives: what its file says and what flags set, without defaults."""
    return configs.without_defaults(configs.plain(CONFIG.value), **LOADED)


def parser(usage: str | None) -> Callable[[list[str]], list[str]]:
    """A parser of flags for `app.run`. The config is filled with the defaults of all its parts, so that a flag can set
    each of them.

    A key that it does not have, or a config that cannot be loaded, is a plain message. usage: what `--help` prints.
    """

    def parse(argv: list[str]) -> list[str]:
        if {"--help", "-h", "--helpshort", "--helpfull"} & set(argv):
            print(usage)
            sys.exit(0)
        path = next(
            (
                a.partition("=")[2] or b
                for a, b in zip(argv, [*argv[1:], ""], strict=True)
                if a.split("=")[0] == "--config"
            ),
            "",
        )
        file = path.partition(":")[0]
        if not pathlib.Path(file).is_file():
            sys.exit(f"error: --config: no file {file or '(none given)'}; configs/emoji.py is the quick start")
        setattr(flags.FLAGS["config"].parser, "parse", load_resolved)  # noqa: B010, the flag has no hook of its own
        try:
            return app.parse_flags_with_usage(argv)
        except (AttributeError, KeyError) as error:
            sys.exit(f"error: {configs.no_such_key(error)}")

    return parse


def load_resolved(argument: str) -> Any:
    """The config at `path:arguments`, with all defaults."""
    from bigcl.stages import resolved

    file, _, arg = argument.partition(":")
    try:
        LOADED["original"] = configs.plain(runpy.run_path(file)["get_config"](arg or None))
        LOADED["resolved"] = resolved(LOADED["original"])
    except ConfigError as error:
        sys.exit(f"error: {error}")
    return configs.overridable(LOADED["resolved"])

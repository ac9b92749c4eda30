"""Configs: Python files with `get_config(arg)`, resolved to plain data, checked before any device is touched."""

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from bigcl.files import replacing
from bigcl.registry import ConfigError, nearest


def parse_arg(arg: str | None, **defaults: Any) -> ConfigDict:
    """The arguments in a config's path, `configs/siglip.py:size=L/16,batch=1024,smoke`: each takes the type of its
    default; a bare word means True.

    Raises ConfigError for an argument that the config does not have, or a value of the wrong type.
    """
    result = dict(defaults)
    for item in filter(None, (arg or "").split(",")):
        key, given, text = item.partition("=")
        if key not in defaults:
            raise ConfigError(f"config argument {key!r}: unknown; {nearest(key, defaults)}")
        if not given and not isinstance(defaults[key], bool):
            raise ConfigError(f"config argument {key!r}: expected {type(defaults[key]).__name__}, {key}=...")
        result[key] = parse_value(key, text if given else "true", type(defaults[key]))
    return ConfigDict(result)


def parse_value(key: str, text: str, kind: type) -> Any:
    """One argument as a value of type `kind`."""
    if kind is bool:
        if text.lower() not in ("true", "false", "1", "0"):
            raise ConfigError(f"config argument {key!r}: expected true or false, got {text!r}")
        return text.lower() in ("true", "1")
    try:
        return kind(text)
    except ValueError as error:
        raise ConfigError(f"config argument {key!r}: expected {kind.__name__}, got {text!r}") from error


def no_such_key(error: AttributeError | KeyError) -> str:
    """What ml_collections says of a key that there is not: an AttributeError around a KeyError, or the KeyError."""
    told = error.args[0].args if error.args and isinstance(error.args[0], KeyError) else error.args
    return "config: no key " + ". ".join(map(str, told)).replace("\n", ". ")


def check_given(config: Any) -> None:
    """Raises ConfigError for arguments that have to be given: a recipe has "(give ...)" where they belong."""
    from jax import tree

    found = [re.match(r"\((give .*?)\)", value) for value in tree.leaves(config) if isinstance(value, str)]
    if asked := dict.fromkeys(f"  {match[1]}" for match in found if match):
        told = "\n".join(asked)
        raise ConfigError(f"arguments of the config are missing, which follow its path after a colon:\n{told}")


def plain(config: Any) -> Any:
    """A config as nested dicts and lists of JSON's own types, which is what parts are built from and what `config.json`
    holds."""
    if isinstance(config, ConfigDict | Mapping):
        return {str(k): plain(v) for k, v in config.items()}
    if isinstance(config, list | tuple):
        return [plain(v) for v in config]
    if config is None or isinstance(config, bool | int | float | str):
        return config
    raise ConfigError(f"config: {config!r} is not plain data (number, text, list, dict, true, false, null)")


def parse_variant(arg: str | None, *variants: str, **defaults: Any) -> ConfigDict:
    """The arguments of a recipe with several forms: the form's name as a bare word, the first of `variants` where there
    is none, then as in `parse_arg`. The result has `variant`, `smoke` and `seed` besides."""
    words = [item for item in (arg or "").split(",") if item]
    chosen = [word for word in words if word in variants]
    if len(chosen) > 1:
        raise ConfigError(f"config argument {chosen[1]!r}: there is {chosen[0]!r} already")
    known = {"smoke": False, "seed": 0, **defaults}
    for word in words:
        if "=" not in word and word not in (*variants, *(k for k, v in known.items() if isinstance(v, bool))):
            raise ConfigError(f"config argument {word!r}: unknown; {nearest(word, [*variants, *known])}")
    rest = ",".join(word for word in words if word not in variants)
    return ConfigDict({**parse_arg(rest, **known).to_dict(), "variant": chosen[0] if chosen else variants[0]})


def overridable(config: Any) -> Any:
    """Resolved plain data as a config whose every key a flag can set; what is None takes numbers and words as they are
    written."""
    if isinstance(config, Mapping):
        return ConfigDict({k: overridable(v) for k, v in config.items()})
    return placeholder(object) if config is None else config


def without_defaults(config: Any, resolved: Any, original: Any) -> Any:
    """`config`, which is `resolved` with some values set by flags, without the defaults that neither `original` nor a
    flag names.

    So a flag may give a part another `kind`, and the defaults of the old one do not stay behind.
    """
    if not (isinstance(config, dict) and isinstance(resolved, dict) and isinstance(original, dict)):
        return config
    return {
        k: without_defaults(v, resolved.get(k), original.get(k, {}))
        for k, v in config.items()
        if k in original or v != resolved.get(k)
    }


def save(config: Mapping[str, Any], path: pathlib.Path) -> None:
    """Writes a resolved config as JSON."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """One line for each value that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(k for k in new if k not in old)]
        return [
            line
            for k in keys
            for line in differences(old.get(k, "(absent)"), new.get(k, "(absent)"), f"{where}.{k}" if where else k)
        ]
    return [] if old == new else [f"{where}: {old!r} -> {new!r}"]

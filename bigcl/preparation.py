"""What prepares the inputs of a model that is used, read off the config of its run."""

import string
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from bigcl import registry
from bigcl.registry import Part

SHAPING = ("resize", "center_crop", "naflex", "random_crop", "random_resized_crop")
"""Transforms after which a picture has the shape that the tower wants."""

MAKING = ("decode_image", "resize", "center_crop", "naflex", "decode_audio", "crop_audio", "log_mel", "decode_video")
"""Transforms without which a tower cannot read an input; the others of a training change what it reads."""

RANDOM_TEXT = ("word_dropout", "sample_sentences")
TEXT_KINDS = ("choose_text", "format_text", "clean_text", *RANDOM_TEXT)


def evaluations(config: Mapping[str, Any]) -> list[Part]:
    """The evaluators of a config; in place of one that runs another (`robustness`), the other."""
    found = []
    for part in config.get("evals", {}).values():
        while isinstance(part, Mapping) and "evaluator" in part:
            part = part["evaluator"]
        found += [part] if isinstance(part, Mapping) else []
    return found


def lists(config: Mapping[str, Any]) -> list[list[Part]]:
    """The transforms of each evaluation, and last those of the training."""
    evaluated = [list(part.get("transforms", ())) for part in evaluations(config)]
    return [*evaluated, list(config.get("data", {}).get("transforms", ()))]


def for_pictures(config: Mapping[str, Any]) -> list[Part]:
    """The transforms of the first evaluation that gives pictures a shape, else of the training."""
    *evaluated, trained = lists(config)
    return next((parts for parts in evaluated if shapes_pictures(parts)), trained)


def shapes_pictures(parts: Sequence[Part]) -> bool:
    """Whether pictures have a shape of their own after these."""
    return any(part["kind"] in SHAPING for part in parts)


def for_texts(config: Mapping[str, Any], name: str = "text") -> list[Part]:
    """What makes token ids of the texts of an input: of the first evaluation that does, else of the training, without
    what is random there; nothing if neither does."""
    *evaluated, trained = lists(config)
    said = next((parts for parts in evaluated if tokenizes(parts, name)), None)
    parts = chain(trained if said is None else said, name)
    return [part for part in parts if said is not None or not random_text(part)]


def for_others(config: Mapping[str, Any], name: str) -> list[Part]:
    """The transforms of an input that is neither a picture nor a text: of the first evaluation that has any for it,
    else those of the training that it cannot do without."""
    *evaluated, trained = ([part for part in parts if name in writes(part)] for parts in lists(config))
    return next(filter(None, evaluated), [part for part in trained if part["kind"] in MAKING])


def tokenizes(parts: Sequence[Part], name: str) -> bool:
    """Whether token ids of an input are made."""
    return any(part["kind"] == "tokenize" and name in writes(part) for part in parts)


def random_text(part: Part) -> bool:
    """Whether a transform changes a text at random."""
    return part["kind"] in RANDOM_TEXT or part.get("probability", 1.0) < 1


def chain(parts: Sequence[Part], name: str) -> list[Part]:
    """Those of the transforms of texts that end in the ids of an input."""
    found: list[Part] = []
    needed: set[str] = set()
    for part in reversed(parts):
        ends = part["kind"] == "tokenize" and name in writes(part)
        if ends or (part["kind"] in TEXT_KINDS and needed & writes(part)):
            found.insert(0, part)
            needed |= reads(part)
    return found


def option(part: Part, name: str) -> Any:
    """An option of a transform, or its default; None where there is no such option."""
    parameters = registry.signature(registry.constructor("transform", part["kind"]))
    return part.get(name, parameters[name].default if name in parameters else None)


def reads(part: Part) -> set[str]:
    """The keys that a transform needs; none where it does not say."""
    if part["kind"] == "format_text":
        return {key for _, key, _, _ in string.Formatter().parse(part["template"]) if key is not None}
    return as_set(option(part, "key")) | as_set(option(part, "keys") if part["kind"] == "noise" else None)


def writes(part: Part) -> set[str]:
    """The keys that a transform makes or changes; none where it does not say."""
    return as_set(option(part, "out")) or as_set(option(part, "views")) or reads(part)


def as_set(keys: Any) -> set[str]:
    """One key, several, or none."""
    if isinstance(keys, str):
        return {keys}
    return {key for key in keys if isinstance(key, str)} if isinstance(keys, Collection) else set()


def applicable(parts: Sequence[Part], keys: Collection[str]) -> list[Part]:
    """Those of the transforms that examples with these keys have something for."""
    there = set(keys)
    chosen: list[Part] = []
    for part in parts:
        if part["kind"] == "keep":
            new = part["keys"] if isinstance(part["keys"], Mapping) else {key: key for key in part["keys"]}
            new = {key: old for key, old in new.items() if old.partition("/")[0] in there}
            chosen += [{**part, "keys": new}] if new else []
            there = set(new) or there
        elif reads(part) <= there:
            chosen.append(part)
            there |= writes(part)
    return chosen

"""One table from the `kind` of a config part to the constructor that it names.

A part is plain data: `{"kind": "vit", "variant": "B/16", "pool": "map"}`. Every key but `kind` is an argument of the
constructor itself, so there is no wrapper and no second list of defaults. Constructors are imported when first used: a
run pays for what it uses, and an optional dependency is asked for by the part that needs it.
"""

import dataclasses
import difflib
import functools
import importlib
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import beartype.door
from beartype import BeartypeConf

Part = Mapping[str, Any]
"""A config part: `{"kind": ..., **constructor_arguments}`. `Annotated[Part, "tower"]` in a signature says which
registry it belongs to, `Annotated[Part, TrainOptions]` that its keys are the arguments of that class or function."""

HOLDER_KEYS: dict[str, dict[str, Any]] = {
    "loss": {
        "of": Sequence[str],
        "weight": float,
        "scale": float | str,
        "with": Mapping[str, str],
        "when": Sequence[float],
        "embeddings": Literal["float32", "bfloat16"],
        "name": str,
    },
    "head": {"of": Sequence[str]},
    "evaluator": {"every": int},
}
"""Keys of a part that are read by whoever holds the part, not by its constructor."""

INJECTED = frozenset({"dtype", "rngs", "vocab", "batch_size", "steps", "params"})
"""Arguments of parts that a config could write, and that the program supplies through the context of `build`."""

REGISTRIES: dict[str, dict[str, str]] = {
    "task": {
        "two_tower": "bigcl.tasks.two_tower:TwoTower",
        "fusion": "bigcl.tasks.fusion:Fusion",
        "finite_tokens": "bigcl.tasks.finite_tokens:FiniteTokens",
        "mixed_features": "bigcl.tasks.mixed_features:MixedFeatures",
    },
    "tower": {
        "vit": "bigcl.towers.vit:ViT",
        "resnet": "bigcl.towers.resnet:ResNet",
        "text": "bigcl.towers.text:TextTransformer",
        "mlp": "bigcl.towers.mlp:MLP",
        "token_mlp": "bigcl.towers.token_mlp:TokenMLP",
        "gru": "bigcl.towers.recurrent:GRU",
        "table": "bigcl.towers.table:Table",
    },
    "head": {
        "mlp": "bigcl.towers.heads:MLPHead",
    },
    "loss": {
        "infonce": "bigcl.losses.infonce:infonce",
        "sigmoid": "bigcl.losses.sigmoid:sigmoid",
        "dcl": "bigcl.losses.dcl:dcl",
        "cwcl": "bigcl.losses.cwcl:cwcl",
        "one_to_k": "bigcl.losses.one_to_k:one_to_k",
        "temporal_nce": "bigcl.losses.temporal:temporal_nce",
        "pairwise": "bigcl.losses.pairwise:pairwise",
        "pairwise_views": "bigcl.losses.pairwise:pairwise_views",
        "concatenated": "bigcl.losses.pairwise:concatenated",
        "views_infonce": "bigcl.losses.views:views_infonce",
        "similarity_distillation": "bigcl.losses.distillation:similarity_distillation",
        "uniformity": "bigcl.losses.uniformity:uniformity",
        "cross_uniformity": "bigcl.losses.uniformity:cross_uniformity",
        "alignment": "bigcl.losses.uniformity:alignment",
        "barlow": "bigcl.losses.barlow:barlow",
        "variance_covariance": "bigcl.losses.variance_covariance:variance_covariance",
        "absolute_error": "bigcl.losses.absolute_error:absolute_error",
        "negative_cosine": "bigcl.losses.negative_cosine:negative_cosine",
        "swapped": "bigcl.losses.swapped:swapped",
        "multilinear": "bigcl.losses.multilinear:multilinear",
        "supremix": "bigcl.losses.supremix:supremix",
        "unique_contrast": "bigcl.losses.unique:unique_contrast",
        "classification": "bigcl.losses.classification:classification",
        "consensus": "bigcl.losses.classification:consensus",
        "mixup": "bigcl.losses.mixup:mixup",
        "mixture_contrast": "bigcl.losses.mixup:mixture_contrast",
        "soft_clip": "bigcl.losses.mixup:soft_clip",
        "multi_positive": "bigcl.losses.grouping:multi_positive",
        "grouping": "bigcl.losses.grouping:grouping",
    },
    "optimizer": {
        "adamw": "bigcl.optimizers:adamw",
        "lion": "bigcl.optimizers:lion",
        "adafactor": "bigcl.optimizers:adafactor",
        "muon": "bigcl.optimizers:muon",
        "sgd": "bigcl.optimizers:sgd",
    },
    "schedule": {
        "constant": "bigcl.schedules:constant",
        "linear": "bigcl.schedules:linear",
        "cosine": "bigcl.schedules:cosine",
        "stairs": "bigcl.schedules:stairs",
        "rsqrt": "bigcl.schedules:rsqrt",
        "wsd": "bigcl.schedules:wsd",
    },
    "source": {
        "emoji": "bigcl.data.sources.emoji:Emoji",
        "openclipart": "bigcl.data.sources.openclipart:OpenClipart",
        "arrayrecord": "bigcl.data.sources.arrayrecord:ArrayRecord",
        "tfds": "bigcl.data.sources.tfds:TFDS",
        "webdataset": "bigcl.data.sources.webdataset:WebDataset",
        "arrays": "bigcl.data.sources.arrays:Arrays",
        "synthetic": "bigcl.data.sources.arrays:Synthetic",
        "parquet": "bigcl.data.sources.parquet:Parquet",
        "jsonl": "bigcl.data.sources.jsonl:JSONL",
        "csv": "bigcl.data.sources.csv:CSV",
        "huggingface": "bigcl.data.sources.huggingface:HuggingFace",
        "tfrecord": "bigcl.data.sources.tfrecord:TFRecord",
        "mixture": "bigcl.data.mixture:Mixture",
        "filtered": "bigcl.data.sources.filtered:Filtered",
        "cases": "bigcl.data.sources.cases:Cases",
        "neighbours": "bigcl.data.sources.neighbours:Neighbours",
        "digits": "bigcl.data.sources.digits:Digits",
        "xor": "bigcl.data.sources.xor:Xor",
        "noisy": "bigcl.data.sources.noisy:Noisy",
        "prose": "bigcl.data.sources.prose:Prose",
        "functions": "bigcl.data.sources.functions:Functions",
        "slot_sentences": "bigcl.data.sources.slot_sentences:SlotSentences",
        "scenes": "bigcl.data.sources.scenes:Scenes",
        "digit_scenes": "bigcl.data.sources.digit_scenes:DigitScenes",
        "sound_pairs": "bigcl.data.sources.sound_pairs:SoundPairs",
        "class_pairs": "bigcl.data.sources.class_pairs:ClassPairs",
        "domains": "bigcl.data.sources.domains:Domains",
        "concept_bags": "bigcl.data.sources.concept_bags:ConceptBags",
    },
    "transform": {
        "keep": "bigcl.data.transforms:Keep",
        "decode_image": "bigcl.data.transforms.image:DecodeImage",
        "resize": "bigcl.data.transforms.image:Resize",
        "center_crop": "bigcl.data.transforms.image:CenterCrop",
        "random_crop": "bigcl.data.transforms.image:RandomCrop",
        "random_resized_crop": "bigcl.data.transforms.image:RandomResizedCrop",
        "random_flip": "bigcl.data.transforms.image:RandomFlip",
        "random_affine": "bigcl.data.transforms.image:RandomAffine",
        "shift": "bigcl.data.transforms.image:Shift",
        "views": "bigcl.data.transforms.augment:Views",
        "color_jitter": "bigcl.data.transforms.augment:ColorJitter",
        "grayscale": "bigcl.data.transforms.augment:Grayscale",
        "gaussian_blur": "bigcl.data.transforms.augment:GaussianBlur",
        "solarize": "bigcl.data.transforms.augment:Solarize",
        "random_erasing": "bigcl.data.transforms.augment:RandomErasing",
        "rand_augment": "bigcl.data.transforms.augment:RandAugment",
        "naflex": "bigcl.data.transforms.naflex:Naflex",
        "decode_audio": "bigcl.data.transforms.audio:DecodeAudio",
        "crop_audio": "bigcl.data.transforms.audio:CropAudio",
        "compose_audio": "bigcl.data.transforms.audio:ComposeAudio",
        "log_mel": "bigcl.data.transforms.audio:LogMel",
        "decode_video": "bigcl.data.transforms.video:DecodeVideo",
        "choose_text": "bigcl.data.transforms.text:ChooseText",
        "format_text": "bigcl.data.transforms.text:FormatText",
        "sample_sentences": "bigcl.data.transforms.sentences:SampleSentences",
        "word_dropout": "bigcl.data.transforms.text:WordDropout",
        "swap_words": "bigcl.data.transforms.word_order:SwapWords",
        "shuffle_words": "bigcl.data.transforms.word_order:ShuffleWords",
        "random_swap": "bigcl.data.transforms.text:RandomSwap",
        "remove_stopwords": "bigcl.data.transforms.text:RemoveStopwords",
        "clean_text": "bigcl.data.transforms.text:CleanText",
        "tokenize": "bigcl.data.transforms.text:Tokenize",
        "null_image": "bigcl.data.transforms.null_image:NullImage",
        "corrupt": "bigcl.data.transforms.corrupt:Corrupt",
        "stamp": "bigcl.data.transforms.corrupt:Stamp",
        "noise": "bigcl.data.transforms.noise:Noise",
    },
    "device_transform": {
        "random_flip": "bigcl.data.transforms.device:RandomFlip",
        "log_mel": "bigcl.data.transforms.audio:DeviceLogMel",
        "mixup": "bigcl.data.transforms.device:Mixup",
        "cutmix": "bigcl.data.transforms.device:CutMix",
    },
    "tokenizer": {
        "bpe": "bigcl.data.tokenizers:BPE",
        "tokenizers_json": "bigcl.data.tokenizers:TokenizersJSON",
        "clip": "bigcl.data.tokenizers:CLIP",
        "sentencepiece": "bigcl.data.tokenizers:SentencePiece",
    },
    "evaluator": {
        "retrieval": "bigcl.evals.retrieval:Retrieval",
        "zero_shot": "bigcl.evals.zero_shot:ZeroShot",
        "multi_label": "bigcl.evals.multi_label:MultiLabel",
        "knn": "bigcl.evals.knn:KNN",
        "linear_probe": "bigcl.evals.linear_probe:LinearProbe",
        "few_shot": "bigcl.evals.few_shot:FewShot",
        "regression": "bigcl.evals.regression:Regression",
        "clustering": "bigcl.evals.clustering:Clustering",
        "similarity": "bigcl.evals.similarity:Similarity",
        "pairs": "bigcl.evals.pairs:Pairs",
        "blind_pairs": "bigcl.evals.pairs:BlindPairs",
        "recommendation": "bigcl.evals.recommendation:Recommendation",
        "composed": "bigcl.evals.composed:Composed",
        "multilingual": "bigcl.evals.multilingual:Multilingual",
        "geometry": "bigcl.evals.geometry:Geometry",
        "robustness": "bigcl.evals.robustness:Robustness",
        "regions": "bigcl.evals.regions:Regions",
        "tuples": "bigcl.evals.tuples:Tuples",
        "answers": "bigcl.evals.answers:Answers",
        "visualness": "bigcl.evals.visualness:Visualness",
        "ordering": "bigcl.evals.ordering:Ordering",
        "coupling": "bigcl.evals.coupling:Coupling",
    },
}

_NUMBERS = BeartypeConf(is_pep484_tower=True)  # an int is a fine float


class ConfigError(ValueError):
    """A config that cannot work; the message names the key and, where there is one, the nearest valid key."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"`, or the list of what is known when nothing is near."""
    known = sorted(map(str, known))
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def constructor(registry: str, kind: str, where: str = "") -> Callable[..., Any]:
    """The callable that `kind` names in `registry`."""
    table = REGISTRIES[registry]
    if kind not in table:
        raise ConfigError(f"{where or registry}: unknown {registry} {kind!r}; {nearest(kind, table)}")
    module, _, attribute = table[kind].partition(":")
    return getattr(importlib.import_module(module), attribute)


def build(registry: str, part: Part, **context: Any) -> Any:
    """Calls the constructor of `part` with the part's own keys.

    `context` holds what a config cannot (a mesh, a tokenizer, random keys, the compute dtype of the run); each is
    handed to the constructors that have a parameter of that name, unless the part sets it itself.
    """
    check(registry, part, registry)
    make = constructor(registry, part["kind"])
    own = arguments(registry, part)
    wanted = signature(make)
    try:
        return make(**{k: v for k, v in context.items() if k in wanted and k not in own}, **own)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{registry} {part['kind']!r}: {error}") from error


def bind(registry: str, part: Part) -> functools.partial[Any]:
    """The constructor of `part` with the part's own keys already in it: a loss with its options, waiting for its
    arrays."""
    check(registry, part, registry)
    return functools.partial(constructor(registry, part["kind"]), **arguments(registry, part))


def arguments(registry: str, part: Part) -> dict[str, Any]:
    """What `part` says to its constructor."""
    return {k: v for k, v in part.items() if k != "kind" and k not in HOLDER_KEYS.get(registry, ())}


def check(registry: str, part: Any, where: str) -> None:
    """Raises ConfigError if `part`, or a part inside it, does not fit its constructor: unknown kind or key, missing
    key, wrong type."""
    if not isinstance(part, Mapping) or "kind" not in part:
        raise ConfigError(f'{where}: expected a part like {{"kind": ...}}, got {part!r}')
    make = constructor(registry, part["kind"], where)
    holder = HOLDER_KEYS.get(registry, {})
    for key, hint in holder.items():
        if key in part and not fits(part[key], hint):
            raise ConfigError(f"{where}.{key}: expected {describe(hint)}, got {part[key]!r}")
    check_call(make, arguments(registry, part), where, holder)


def check_call(make: Callable[..., Any], kwargs: Mapping[str, Any], where: str, known: Iterable[str] = ()) -> None:
    """Checks keyword arguments against the signature and annotations of `make`.

    Arguments that no config can write (arrays, modules) may be absent, for they come later. known: other keys to
    suggest for a misspelt one.
    """
    named = signature(make)
    hints = typing.get_type_hints(make.__init__ if inspect.isclass(make) else make, include_extras=True)
    own = writable(make, hints)
    settable = own | set(known)
    for key, value in kwargs.items():
        if key not in named:
            raise ConfigError(f"{where}.{key}: unknown key; {nearest(key, settable)}")
        if not fits(value, hints.get(key, Any)):
            raise ConfigError(f"{where}.{key}: expected {describe(hints[key])}, got {value!r}")
        check_nested(value, hints.get(key, Any), f"{where}.{key}")
    for name, parameter in named.items():
        if parameter.default is parameter.empty and name in own and name not in kwargs:
            raise ConfigError(f"{where}: missing key {name!r}")


def signature(make: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The named parameters of a constructor. (Of `__init__` itself: the metaclass of NNX modules hides it from
    `inspect`.)"""
    parameters = inspect.signature(make.__init__ if inspect.isclass(make) else make).parameters
    return {n: p for n, p in parameters.items() if n != "self" and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def writable(make: Callable[..., Any], hints: Mapping[str, Any]) -> set[str]:
    """The arguments of `make` that a config is to write; those of a section, a dataclass, come from it alone."""
    injected = () if dataclasses.is_dataclass(make) else INJECTED
    return {n for n in signature(make) if is_plain(hints.get(n, Any)) and n not in injected}


def check_nested(value: Any, hint: Any, where: str) -> None:
    """Checks the parts inside `value` that the annotation assigns to a registry."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated and isinstance(value, Mapping):
        if isinstance(args[1], str):
            check(args[1], value, where)
        else:
            check_call(args[1], value, where)
    elif origin in (typing.Union, types.UnionType):
        for arm in args:
            check_nested(value, arm, where)
    elif origin in (list, tuple, Sequence) and isinstance(value, Sequence) and not isinstance(value, str):
        for i, item in enumerate(value):
            check_nested(item, args[0], f"{where}[{i}]")
    elif origin in (dict, Mapping) and isinstance(value, Mapping):
        for key, item in value.items():
            check_nested(item, args[1], f"{where}.{key}")


def resolve(make: Callable[..., Any], kwargs: Mapping[str, Any], where: str = "config") -> dict[str, Any]:
    """`kwargs` with the defaults of `make` filled in, and so on for the parts inside: what a run is really made of, as
    plain data."""
    hints = typing.get_type_hints(make.__init__ if inspect.isclass(make) else make, include_extras=True)
    named, settable = signature(make), writable(make, hints)
    absent = {n: p.default for n, p in named.items() if n in settable and n not in kwargs and p.default is not p.empty}
    return {k: resolve_nested(v, hints.get(k, Any), f"{where}.{k}") for k, v in {**kwargs, **absent}.items()}


def resolve_nested(value: Any, hint: Any, where: str) -> Any:
    """The parts inside `value` resolved."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated and isinstance(value, Mapping):
        if not isinstance(args[1], str):
            return resolve(args[1], value, where)
        holder = HOLDER_KEYS.get(args[1], {})
        own = {k: v for k, v in value.items() if k == "kind" or k in holder}
        return {**own, **resolve(constructor(args[1], value["kind"], where), arguments(args[1], value), where)}
    if origin in (typing.Union, types.UnionType):
        for arm in args:
            value = resolve_nested(value, arm, where)
    elif origin in (list, tuple, Sequence) and isinstance(value, Sequence) and not isinstance(value, str):
        return [resolve_nested(item, args[0], f"{where}[{i}]") for i, item in enumerate(value)]
    elif origin in (dict, Mapping) and isinstance(value, Mapping):
        return {key: resolve_nested(item, args[1], f"{where}.{key}") for key, item in value.items()}
    return value


def fits(value: Any, hint: Any) -> bool:
    """Whether plain data `value` has the annotated type (lists stand for sequences of any kind, ints for floats)."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return fits(value, args[0])
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, arm) for arm in args)
    if isinstance(value, bool) and hint in (int, float):
        return False
    if not beartype.door.is_bearable(value, hint, conf=_NUMBERS):
        return False
    if origin in (list, Sequence):  # beartype looks at one item, chosen at random
        return all(fits(item, args[0]) for item in value)
    return origin not in (dict, Mapping) or all(fits(item, args[1]) for item in value.values())


def is_plain(hint: Any) -> bool:
    """Whether an argument of this annotation can be written in a config (arrays, modules and functions cannot)."""
    if hint in (Any, str, int, float, bool, type(None), Part):
        return True
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Literal, typing.Annotated):
        return True
    if origin in (typing.Union, types.UnionType):
        return any(is_plain(a) for a in args if a is not type(None))
    return origin in (list, tuple, dict, Sequence, Mapping) and all(is_plain(a) for a in args if a is not Ellipsis)


def describe(hint: Any) -> str:
    """An annotation as a person would write it."""
    if isinstance(hint, type) and not typing.get_args(hint):
        return hint.__name__
    return str(hint).replace("typing.", "").replace("collections.abc.", "")

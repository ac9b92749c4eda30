"""Weights opened for use, from wherever: a run, what `bigcl.convert` wrote, or an exported folder."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from bigcl import registry
from bigcl.convert import read_model
from bigcl.data.tokenizers import Tokenizer, saved_tokenizer
from bigcl.data.transforms import Transform
from bigcl.data.transforms import device as device_transforms
from bigcl.encoder import Encoder, compile_encoder, compute_dtype
from bigcl.evaluate import fitting, locate
from bigcl.experiment import outline
from bigcl.interop import files
from bigcl.interop.model import Preprocessing, load_arrays, read_config
from bigcl.mesh import make_mesh, place
from bigcl.registry import ConfigError, Part
from bigcl.state import Arrays

SHAPING = ("resize", "center_crop", "naflex", "random_crop", "random_resized_crop")
"""Transforms after which a picture has the shape that the tower wants."""


class Pretrained:
    """A task with its weights on a mesh, and what prepares its inputs.

    encode: host batch -> embeddings.
    inputs: what it reads, by name.  shapes: of one example, by key.
    transforms: parts that prepare an example; nothing in them is random where the config has an evaluation, or reads
        nothing but pictures and texts.
    identity: plain data that says which weights these are.
    device: parts that prepare a batch on the devices.
    """

    def __init__(
        self,
        task: Part,
        params: Mapping[str, np.ndarray],
        extra: Mapping[str, np.ndarray],
        *,
        tokenizer: Tokenizer | None,
        transforms: Sequence[Part],
        identity: Mapping[str, Any],
        device: Sequence[Part] = (),
        mesh: Part = {},  # noqa: B006, read only
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    ):
        self.tokenizer, self.transforms, self.identity = tokenizer, list(transforms), dict(identity)
        self.mesh = make_mesh(**fitting({"tensor": 1, **mesh}))
        vocab = None if tokenizer is None else tokenizer.vocab_size
        build = functools.partial(
            registry.build,
            "task",
            task,
            dtype=compute_dtype(dtype, self.mesh),
            batch_size=2,
            vocab=vocab,  # type: ignore[arg-type]
        )
        abstract, skeleton, shapes = outline(build)
        differing = [k for k in {**shapes, **params} if k not in shapes or k not in params]
        differing += [k for k in shapes if k in params and params[k].shape != shapes[k].shape]
        if differing:
            raise ConfigError(f"weights and task do not fit: {', '.join(differing)}")
        reads = abstract.reads()
        self.shapes = {name: x.shape for name, x in reads.items()}
        self.inputs = [name for name in reads if not any(name.startswith(f"{other}_") for other in reads)]
        where = place(shapes, self.mesh, mesh.get("rules"))
        placed: Arrays = {
            k: jax.make_array_from_callback(v.shape, where[k], functools.partial(np.ndarray.__getitem__, v))
            for k, v in params.items()
        }
        self.encode = Encoder(
            compile_encoder(
                skeleton, self.mesh, functools.partial(device_transforms.transform, device_transforms.build(device))
            ),
            self.mesh,
            placed,
            {k: jnp.asarray(v) for k, v in extra.items()},
        )

    @classmethod
    def open(cls, folder: pathlib.Path, step: int | None = None) -> "Pretrained":
        """Opens a folder. step: of a run; default the latest.

        Raises ConfigError, FileNotFoundError, CheckpointError or BadFile with a message for people.
        """
        folder, step = locate(folder, step)
        source = exported_for(folder)
        return cls.of_run(folder, step) if source is None else cls.of_export(folder, source)

    @classmethod
    def of_run(cls, workdir: pathlib.Path, step: int | None) -> "Pretrained":
        """The weights of a run, as they are evaluated, or of what `bigcl.convert` wrote."""
        config = read_config(workdir / "config.json")
        params, extra, step = load_arrays(workdir / "checkpoints", step)
        return cls(
            config["task"],
            params,
            extra,
            tokenizer=saved_tokenizer(workdir, config.get("tokenizer")),
            transforms=preparation(config),
            identity={"checkpoint": str(workdir.absolute()), "step": step},
            device=config.get("data", {}).get("device", ()),
            mesh=config.get("mesh", {}),
            dtype=config.get("train", {}).get("dtype", "auto"),
        )

    @classmethod
    def of_export(cls, folder: pathlib.Path, source: str) -> "Pretrained":
        """The weights of an exported folder, or of any that the importer of `source` reads."""
        model = read_model(source, folder)
        transforms = [] if model.preprocessing is None else model.preprocessing.transforms()
        if model.tokenizer is not None and "text" in model.task["towers"]:
            transforms += [{"kind": "tokenize", "length": model.tower("text")["length"]}]
        identity = {"checkpoint": str(folder.absolute()), "format": source}
        return cls(model.task, model.arrays, {}, tokenizer=model.tokenizer, transforms=transforms, identity=identity)

    def prepare(self, keys: Sequence[str]) -> list[Transform]:
        """What prepares examples that have these keys: the transforms of the keys that are there.

        Raises ConfigError if the tower of none of them is there.
        """
        there, chosen = set(keys), []
        for part in self.transforms:
            parameters = registry.signature(registry.constructor("transform", part["kind"]))
            key = part.get("key", parameters["key"].default if "key" in parameters else None)
            if not isinstance(key, str) or key in there:
                chosen.append(part)
                there |= {part["out"]} if isinstance(part.get("out"), str) else set()
        if not there & set(self.inputs):
            raise ConfigError(f"--data: an example has {', '.join(keys)}; the model reads {', '.join(self.inputs)}")
        return [registry.build("transform", part, tokenizer=self.tokenizer) for part in chosen]

    def reads(self, example: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """What of a prepared example the towers read: the inputs, and what is named after them."""
        own = tuple(f"{name}_" for name in self.inputs)
        mine = {k: v for k, v in example.items() if k in self.inputs or k.startswith(own)}
        return {k: v for k, v in mine.items() if isinstance(v, np.ndarray)}


def exported_for(folder: pathlib.Path) -> str | None:
    """The library that a folder is laid out for, as `--from` of `bigcl.convert` names it; None for bigcl's own."""
    if (folder / "open_clip_config.json").exists():
        return "open_clip"
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"{folder / 'config.json'} is not there; give the folder of a run or of an export")
    config = files.read_json(folder / "config.json")
    marks = {"model_type": "transformers", "architecture": "timm"}
    if (found := next((source for key, source in marks.items() if key in config), None)) is not None:
        return found
    return None if (folder / "checkpoints").is_dir() else "safetensors"


def preparation(config: Mapping[str, Any]) -> list[Part]:
    """The transforms of the first evaluation, else of the training without what is random in pictures; a picture gets
    the size of its tower where they do not say how."""
    evaluation = next((e.get("transforms", []) for e in config.get("evals", {}).values()), None)
    given = config.get("data", {}).get("transforms", []) if evaluation is None else evaluation
    towers = config["task"].get("towers", {})
    known = {"image": ("vit", "resnet"), "text": ("text",)}
    usual = all(isinstance(t, Mapping) and t["kind"] in known.get(name, ()) for name, t in towers.items())
    if not usual or (evaluation is not None and {part["kind"] for part in given} & set(SHAPING)):
        return list(given)
    tokenize = [part for part in given if part["kind"] == "tokenize"]
    if not tokenize and "text" in towers and config.get("tokenizer"):
        tokenize = [{"kind": "tokenize", "length": towers["text"]["length"]}]
    if "image" not in towers:
        return tokenize
    image = {**registry.resolve(registry.constructor("tower", towers["image"]["kind"]), {}), **towers["image"]}
    return [*Preprocessing.of(given, image).transforms(), *tokenize]

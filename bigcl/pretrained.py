"""Weights opened for use, from wherever: a run, what `bigcl.convert` wrote, or an exported folder."""

import concurrent.futures
import functools
import hashlib
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
from bigcl.preparation import applicable, for_others, for_pictures, for_texts, lists, shapes_pictures, tokenizes, writes
from bigcl.registry import ConfigError, Part
from bigcl.state import Arrays

KNOWN = {"image": ("vit", "resnet"), "text": ("text",)}
"""Inputs and kinds of towers that read pictures and texts."""


class Pretrained:
    """A task with its weights on a mesh, and what prepares its inputs.

    encode: host batch -> embeddings.
    inputs: what it reads, by name.  shapes: of one example, by key.
    transforms: parts that prepare an example; nothing in them is random where the config has an evaluation, or reads
        nothing but pictures and texts.
    identity: plain data that says which weights these are, by a digest of them too, and what they compute in.
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
        self.tokenizer, self.transforms, self.device = tokenizer, list(transforms), list(device)
        self.mesh = make_mesh(**fitting({"tensor": 1, **mesh}))
        computed = compute_dtype(dtype, self.mesh)
        self.identity = {**identity, "weights": digest(params), "dtype": computed.name}
        vocab = None if tokenizer is None else tokenizer.vocab_size
        build = functools.partial(
            registry.build,
            "task",
            task,
            dtype=computed,
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
        if model.tokenizer is not None and model.length is not None:
            transforms += [{"kind": "tokenize", "length": model.length}]
        identity = {"checkpoint": str(folder.absolute()), "format": source}
        return cls(model.task, model.arrays, {}, tokenizer=model.tokenizer, transforms=transforms, identity=identity)

    def chosen(self, keys: Sequence[str]) -> list[Part]:
        """Those of the transforms that examples with these keys have something for.

        Raises ConfigError if the tower of none of them is there.
        """
        chosen = applicable(self.transforms, keys)
        made = set(keys).union(*map(writes, chosen))
        if not made & set(self.inputs):
            raise ConfigError(f"--data: an example has {', '.join(keys)}; the model reads {', '.join(self.inputs)}")
        return chosen

    def prepare(self, keys: Sequence[str]) -> list[Transform]:
        """What prepares examples that have these keys, see `chosen`."""
        return [registry.build("transform", part, tokenizer=self.tokenizer) for part in self.chosen(keys)]

    def reads(self, example: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """What of a prepared example the towers read: the inputs, and what is named after them."""
        own = tuple(f"{name}_" for name in self.inputs)
        mine = {k: v for k, v in example.items() if k in self.inputs or k.startswith(own)}
        return {k: v for k, v in mine.items() if isinstance(v, np.ndarray)}


def digest(params: Mapping[str, np.ndarray]) -> str:
    """64 bits of the sha256 of all arrays, which all cores compute."""

    def one(path: str) -> bytes:
        x = np.asarray(params[path])
        found = hashlib.sha256(repr((path, x.dtype.name, x.shape)).encode())
        found.update(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)
        return found.digest()

    with concurrent.futures.ThreadPoolExecutor() as pool:
        return hashlib.sha256(b"".join(pool.map(one, sorted(params)))).hexdigest()[:16]


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
    """The transforms that prepare each input of the task: as the first evaluation that prepares it has it, else as the
    training, without what is random in pictures and texts. A picture gets the size of its tower and a text its length
    where neither says how. Without an evaluation, inputs of another kind are prepared as in training to the letter."""
    towers = config["task"].get("towers", {})
    own = {name: towers.get(part) if isinstance(part, str) else part for name, part in towers.items()}
    kinds = {name: part["kind"] if isinstance(part, Mapping) else None for name, part in own.items()}
    usual = all(kinds[name] in KNOWN.get(name, ()) for name in towers)
    every = lists(config)
    *evaluated, trained = every
    found: list[Part] = []
    if not usual:
        found += every[0]
    elif "image" in towers and any(map(shapes_pictures, evaluated)):
        found += for_pictures(config)
    elif "image" in towers:
        image = {**registry.resolve(registry.constructor("tower", own["image"]["kind"]), {}), **own["image"]}
        found += Preprocessing.of(trained, image).transforms()
    for name, kind in kinds.items():
        if kind == "text" and not tokenizes(found, name):
            default = {"kind": "tokenize", "length": own[name]["length"], **({} if name == "text" else {"key": name})}
            found += for_texts(config, name) or ([default] if config.get("tokenizer") else [])
        elif not any(name in writes(part) for part in found):
            found += for_others(config, name)
    return found

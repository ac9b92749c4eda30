"""The proof of an export: the same raw pictures and texts through the target's own library and through bigcl."""

import contextlib
import hashlib
import importlib.util
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from bigcl import registry
from bigcl.data.sources import Source, readable
from bigcl.data.tokenizers import Tokenizer, saved_tokenizer
from bigcl.interop import huggingface
from bigcl.interop.model import Inexpressible, Model, Preprocessing
from bigcl.interop.peers import PEERS
from bigcl.preparation import applicable, evaluations
from bigcl.pretrained import preparation
from bigcl.registry import Part

TOLERANCES = {"image": 1e-4, "text": 1e-4, "logits": 1e-4, "pixels": 1.01, "ids": 0.0}
"""Largest differences that pass: of embeddings (of length 1) and logits in float32, of pixels in levels of 0 to 255.

Embeddings and logits are compared on pictures that have the size of the tower. The others show that preprocessing is
the same up to how a library rounds when it resizes, which is one level; `resized` says what that makes of embeddings.
"""

TEXTS = (
    "a photo of a cat",
    "Two Dogs run along the beach",
    "une tasse de café",
    "東京の夜景",
    "x",
    "a very long description of a picture that says the same thing over and over, " * 6,
)


class Unproven(RuntimeError):
    """The exported model is not the same; the folder is left as it is."""


def check_installed(target: str, model: Model) -> None:
    """Raises ImportError, naming the extra, if the target's library is not there to prove an export of a model with;
    Inexpressible if it has no form for the model."""
    needed = (*PEERS[target][1], *(("timm",) if is_timms(target, model) else ()))
    missing = [package for package in needed if importlib.util.find_spec(package) is None]
    if missing:
        raise ImportError(
            f'--to {target}: the proof needs {", ".join(missing)}: pip install "bigcl[export]", or write without '
            "proof by --no-verify"
        )


def is_timms(target: str, model: Model) -> bool:
    """Whether the image tower is timm's within a target that has others too."""
    if target not in ("transformers", "onnx"):
        return False
    if target == "onnx" and "text" not in model.task["towers"]:
        return True
    return huggingface.expressed(model)[0]["model_type"] == "vision-text-dual-encoder"


def prove(target: str, model: Model, folder: pathlib.Path) -> dict[str, float]:
    """The largest difference of each output between the target's library and bigcl, on the same raw inputs.

    Raises Unproven if the library cannot load or run the folder. Whether the differences are small is for the caller.
    """
    pictures, texts = raw_inputs(model)
    batch = {} if target == "safetensors" else prepared(model, pictures, texts)
    ids = batch.get("text", np.zeros((len(texts), 1), np.int32))
    with tempfile.TemporaryDirectory() as scratch:
        inputs, output = pathlib.Path(scratch), pathlib.Path(scratch) / "outputs.npz"
        (inputs / "pictures").mkdir()
        for i, picture in enumerate(pictures):
            picture.save(inputs / "pictures" / f"{i:03}.png")
        (inputs / "texts.json").write_text(json.dumps(texts))
        np.save(inputs / "ids.npy", ids)
        command = [sys.executable, "-m", "bigcl.interop.peers", target, str(folder), str(inputs), str(output)]
        offline = {**os.environ, "HF_HUB_OFFLINE": "1"}  # what the folder lacks must not come from elsewhere
        done = subprocess.run(command, capture_output=True, text=True, env=offline, check=False)
        if done.returncode:
            raise Unproven(f"{target} cannot run {folder}:\n{done.stderr.strip()[-2_000:]}")
        with np.load(output, allow_pickle=False) as file:
            theirs = {k: file[k] for k in file.files}
    if target == "safetensors":
        return differences(theirs, {k: digest(v) for k, v in model.arrays.items()})
    return split_differences(theirs, outputs(model, batch), pictures, model)


def digest(value: np.ndarray) -> np.ndarray:
    """The sha256 of an array, as bytes."""
    return np.frombuffer(hashlib.sha256(value.tobytes()).digest(), np.uint8)


def split_differences(
    theirs: dict[str, np.ndarray], ours: dict[str, np.ndarray], pictures: Sequence[Image.Image], model: Model
) -> dict[str, float]:
    """The differences as TOLERANCES has them."""
    if model.preprocessing is None:
        return differences(theirs, ours)
    as_is, mask = np.array([model.preprocessing.keeps(p) for p in pictures]), ours.pop("mask", None)
    for side in (theirs, ours):
        side["pixels"] = levels(side["pixels"], model.preprocessing)
        if mask is not None and side["pixels"].shape[:2] == mask.shape:
            side["pixels"] = side["pixels"] * mask[..., None]
        side["resized"] = side["image"][~as_is]
        side |= {k: side[k][as_is] for k in ("image", "logits") if k in side}
    return differences(theirs, ours)


def levels(pixels: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Pixels `[n, h, w, 3]` in levels of 0 to 255, from those or from normalised ones with the channels in front; or
    patches `[n, tokens, values]`."""
    if pixels.dtype == np.uint8:
        return pixels.astype(np.float32)
    mean, std = (np.array(x, np.float32) for x in (preprocessing.mean, preprocessing.std))
    if pixels.ndim == 3:
        return (255 * (pixels.reshape(*pixels.shape[:2], -1, 3) * std + mean)).reshape(pixels.shape)
    return 255 * (pixels.transpose(0, 2, 3, 1) * std + mean)


def differences(theirs: dict[str, np.ndarray], ours: dict[str, np.ndarray]) -> dict[str, float]:
    """The largest difference of each of their outputs; infinite where the shapes differ."""
    result = {}
    for name, value in theirs.items():
        mine = ours.get(name)
        if mine is None or mine.shape != value.shape:
            result[name] = float("inf")
        else:
            result[name] = float(np.abs(value.astype(np.float64) - mine).max(initial=0.0))
    return result


def passed(figures: dict[str, float]) -> bool:
    """Whether every difference is within its tolerance (of a tensor read back: none)."""
    return all(value <= TOLERANCES.get(name, 0.0) for name, value in figures.items() if name != "resized")


def outputs(model: Model, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """bigcl's embeddings and logits, and what of the batch others make too."""
    made_of = {"image": "pixels", "text": "ids", "image_mask": "mask"}
    result = model.encode(batch) | {name: batch[k] for k, name in made_of.items() if k in batch}
    if {"image", "text"} <= set(result):
        bias = model.arrays.get("bias", np.float32(0))
        result["logits"] = np.exp(model.arrays["log_scale"]) * result["image"] @ result["text"].T + bias
    return result


def prepared(model: Model, pictures: Sequence[Image.Image], texts: Sequence[str]) -> dict[str, np.ndarray]:
    """A batch by the transforms of the run itself and its tokenizer, so that it shows what of them has not left. Only,
    Pillow resizes, and texts are cut and padded to the length of the tower, as the targets do."""
    config, towers = model.card["config"], model.task["towers"]
    length = model.tower("text")["length"] if "text" in towers else 0
    own: dict[str, dict[str, Any]] = {"resize": {"exact": True}, "tokenize": {"length": length}}
    parts = [{**part, **own.get(part["kind"], {})} for part in preparation(config)]
    batch: dict[str, np.ndarray] = {}
    if "image" in towers and model.preprocessing is not None:
        batch |= through(parts, "image", [np.asarray(picture) for picture in pictures])
    if "text" in towers and model.tokenizer is not None:
        batch |= through(parts, "text", texts, saved_tokenizer(model.card["workdir"], config["tokenizer"]))
    elif "text" in towers:
        batch["text"] = random_ids(model.tower("text"), len(texts))
    return batch


def through(
    parts: Sequence[Part], name: str, values: Sequence[Any], tokenizer: Tokenizer | None = None
) -> dict[str, np.ndarray]:
    """Raw values of one input through the transforms that are for it. Raises Inexpressible where a picture does not
    get the size of the others."""
    steps = [registry.build("transform", part, tokenizer=tokenizer) for part in applicable(parts, [name])]
    made = []
    for value in values:
        example: Any = {name: value}
        for step in steps:
            example = step(example, np.random.default_rng(0))
        made.append({k: v for k, v in example.items() if k == name or k.startswith(f"{name}_")})
    if len({np.shape(example[name]) for example in made}) > 1:
        raise Inexpressible(
            f"transforms: {name}s of other shapes keep them; a resize to [height, width], or one and a center_crop, "
            "lets them in"
        )
    return {k: np.stack([example[k] for example in made]) for k in (made[0] if made else ())}


def random_ids(tower: Part, count: int) -> np.ndarray:
    """Ids where there is no tokenizer, with the largest at the end."""
    ids = np.random.default_rng(0).integers(3, tower["vocab"] - 1, (count, tower["length"]), dtype=np.int32)
    ids[:, -1] = tower["vocab"] - 1
    return ids


def raw_inputs(model: Model) -> tuple[list[Image.Image], list[str]]:
    """Pictures of several shapes and texts of several lengths, and the first examples that the run was evaluated on."""
    size = model.preprocessing.resized if model.preprocessing is not None else 32
    shapes = [*[(size, size)] * 4, (3 * size // 2, 3 * size // 2), (2 * size, 4 * size), (4 * size, 2 * size)]
    pictures = [painting(shape, seed) for seed, shape in enumerate(shapes)]
    texts = list(TEXTS)
    source = evaluated(model)
    for i in range(min(8, 0 if source is None else len(source))):
        example = {} if source is None else readable(source.__getitem__, i)
        if isinstance(example.get("image"), bytes):
            with contextlib.suppress(OSError):  # no picture
                pictures.append(Image.open(io.BytesIO(example["image"])).convert("RGB"))
        if isinstance(example.get("text"), str):
            texts.append(example["text"])
    return pictures, texts


def evaluated(model: Model) -> Source | None:
    """The source of the run's first evaluator that has one, if it is here."""
    sources = [part["source"] for part in evaluations(model.card.get("config", {})) if part.get("source")]
    try:
        return registry.build("source", sources[0]) if sources else None
    except (OSError, ImportError, ValueError):
        return None


def painting(shape: tuple[int, int], seed: int) -> Image.Image:
    """A smooth picture with some noise: what survives resizing, and what does not."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((shape[1], shape[0]), Image.Resampling.BICUBIC)).astype(np.int16)
    return Image.fromarray(np.clip(smooth + rng.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8))

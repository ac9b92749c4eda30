"""What the target's own library makes of an exported folder: run in a process of its own, without bigcl's model code.

`python -m bigcl.interop.peers TARGET FOLDER INPUTS OUTPUT`: INPUTS holds pictures/*.png, `texts.json` and `ids.npy`,
the token ids for models without a tokenizer. OUTPUT is an npz of normalised embeddings, logits, and of what its own
preprocessing and tokenizer made of the inputs: `ids`, and `pixels`, uint8 `[n, h, w, 3]` or normalised `[n, 3, h, w]`.
"""

import hashlib
import json
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

Outputs = dict[str, np.ndarray]
READ = ("input_ids", "pixel_values", "pixel_attention_mask", "spatial_shapes")
"""What models of transformers are given; texts are padded to the full length and have no mask."""


def open_clip(folder: str, pictures: Sequence[Image.Image], texts: Sequence[str], ids: np.ndarray) -> Outputs:
    """`create_model_and_transforms` and `get_tokenizer` of the folder."""
    import open_clip as library
    import torch

    model, _, preprocess = library.create_model_and_transforms(f"local-dir:{folder}")
    images = torch.stack([preprocess(picture) for picture in pictures])
    tokens = torch.from_numpy(ids)
    if (pathlib.Path(folder) / "tokenizer.json").exists():
        tokens = library.get_tokenizer(f"local-dir:{folder}")(list(texts))
    with torch.inference_mode():
        model.eval()
        image, text = model.encode_image(images, normalize=True), model.encode_text(tokens, normalize=True)
        logits = model.get_logits(images, tokens)[0]
    found = {"image": image, "text": text, "logits": logits, "pixels": images, "ids": tokens}
    return {name: value.numpy() for name, value in found.items()}


def transformers(folder: str, pictures: Sequence[Image.Image], texts: Sequence[str], ids: np.ndarray) -> Outputs:
    """`AutoModel` and `AutoProcessor` of the folder; without a tokenizer `AutoImageProcessor`. The latter and
    `PreTrainedTokenizerFast` for a SigLIP 2, beside which `AutoProcessor` takes every tokenizer for Gemma's."""
    import torch
    import transformers as library

    model = library.AutoModel.from_pretrained(folder).eval()
    length = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    length["max_length"] = model.config.text_config.max_position_embeddings
    with_tokenizer = (pathlib.Path(folder) / "tokenizer.json").exists()
    if with_tokenizer and model.config.model_type != "siglip2":
        processor = library.AutoProcessor.from_pretrained(folder)
        inputs = processor(text=list(texts), images=list(pictures), **length)
    else:
        inputs = library.AutoImageProcessor.from_pretrained(folder)(images=list(pictures), return_tensors="pt")
        inputs["input_ids"] = torch.from_numpy(ids)
        if with_tokenizer:
            tokenizer = library.PreTrainedTokenizerFast.from_pretrained(folder)
            inputs["input_ids"] = tokenizer(list(texts), **length)["input_ids"]
    inputs = {k: v for k, v in inputs.items() if k in READ}
    with torch.inference_mode():
        result = model(**inputs)
    found = {"image": result.image_embeds, "text": result.text_embeds, "logits": result.logits_per_image}
    found |= {"pixels": inputs["pixel_values"], "ids": inputs["input_ids"]}
    return {name: value.numpy() for name, value in found.items()}


def timm(folder: str, pictures: Sequence[Image.Image], texts: Sequence[str], ids: np.ndarray) -> Outputs:
    """`timm.create_model` of the folder, and the transform of its own config."""
    import timm as library
    import torch

    model = library.create_model(f"local-dir:{folder}", pretrained=True).eval()
    preprocess = library.data.create_transform(**library.data.resolve_model_data_config(model), is_training=False)
    images = torch.stack([preprocess(picture) for picture in pictures])
    with torch.inference_mode():
        embeddings = torch.nn.functional.normalize(model(images))
    return {"image": embeddings.numpy(), "pixels": images.numpy()}


def described(
    folder: pathlib.Path, pictures: Sequence[Image.Image], texts: Sequence[str], ids: np.ndarray
) -> dict[str, np.ndarray]:
    """Inputs of the towers by what the folder's `config.json` and `tokenizer.json` say alone."""
    config = json.loads((folder / "config.json").read_text())
    inputs = {"image": squares(pictures, config["preprocessing"])} if config["preprocessing"] else {}
    if "text" in config["task"]["towers"]:
        inputs["text"] = ids
    if config["tokenizer"]:
        import tokenizers

        tokenizer = tokenizers.Tokenizer.from_file(str(folder / config["tokenizer"]))
        padding = tokenizer.padding or {}
        tokenizer.enable_truncation(ids.shape[1])
        tokenizer.enable_padding(**{**padding, "length": ids.shape[1]})
        tokenizer.encode_special_tokens = True
        inputs["text"] = np.array([e.ids for e in tokenizer.encode_batch(list(texts))], np.int32)
    return inputs


def squares(pictures: Sequence[Image.Image], how: dict[str, Any]) -> np.ndarray:
    """Pictures resized and cropped, uint8 `[n, size, size, 3]`."""
    size, pixels = how["size"], []
    edge = how.get("edge") or size
    for picture in pictures:
        width, height = picture.size
        target = (edge, edge)
        if how["mode"] == "shortest":
            target = (edge * width // min(picture.size), edge * height // min(picture.size))
        left, top = (target[0] - size) // 2, (target[1] - size) // 2
        resized = picture.convert("RGB").resize(target, Image.Resampling[how["method"].upper()])
        pixels.append(np.asarray(resized.crop((left, top, left + size, top + size))))
    return np.stack(pixels)


def with_inputs(embeddings: Outputs, inputs: dict[str, np.ndarray]) -> Outputs:
    """Embeddings, and what they were made of, under the names of the outputs."""
    return embeddings | {{"image": "pixels", "text": "ids"}[name]: x for name, x in inputs.items()}


def jax(folder: str, pictures: Sequence[Image.Image], texts: Sequence[str], ids: np.ndarray) -> Outputs:
    """The StableHLO of each tower, and of the logits."""
    import jax as library
    from safetensors.numpy import load_file

    root = pathlib.Path(folder)
    arrays, inputs, found = load_file(root / "model.safetensors"), described(root, pictures, texts, ids), {}

    def called(file: str, *x: np.ndarray) -> Any:
        return library.export.deserialize(bytearray((root / file).read_bytes())).call(arrays, *x)

    for name, x in inputs.items():
        found[name] = np.asarray(called(f"{name}.stablehlo", x))
    if (root / "logits.stablehlo").exists():
        found["logits"] = np.asarray(called("logits.stablehlo", found["image"], found["text"]))
    return with_inputs(found, inputs)


def onnx(folder: str, pictures: Sequence[Image.Image], texts: Sequence[str], ids: np.ndarray) -> Outputs:
    """Each tower in onnxruntime, and the logits."""
    import onnxruntime

    root = pathlib.Path(folder)
    inputs, found = described(root, pictures, texts, ids), {}

    def called(file: str, **x: np.ndarray) -> np.ndarray:
        session = onnxruntime.InferenceSession(root / file, providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, x)[0])

    for name, x in inputs.items():
        found[name] = called(f"{name}.onnx", **{name: x.astype(np.int64) if name == "text" else x})
    if (root / "logits.onnx").exists():
        found["logits"] = called("logits.onnx", **{f"{name}_embedding": x for name, x in found.items()})
    return with_inputs(found, inputs)


def safetensors(folder: str, pictures: Sequence[Image.Image], texts: Sequence[str], ids: np.ndarray) -> Outputs:
    """The sha256 of each tensor, as bytes."""
    from safetensors.numpy import load_file

    tensors = load_file(pathlib.Path(folder) / "model.safetensors")
    return {k: np.frombuffer(hashlib.sha256(v.tobytes()).digest(), np.uint8) for k, v in tensors.items()}


PEERS: dict[str, tuple[Callable[..., Outputs], tuple[str, ...]]] = {
    "open_clip": (open_clip, ("torch", "torchvision", "open_clip")),
    "transformers": (transformers, ("torch", "torchvision", "transformers")),
    "timm": (timm, ("torch", "torchvision", "timm")),
    "jax": (jax, ("jax", "flatbuffers", "safetensors", "tokenizers")),
    "onnx": (onnx, ("torch", "transformers", "onnxscript", "onnxruntime", "tokenizers")),
    "safetensors": (safetensors, ("safetensors",)),
}
"""How each target is run, and what must be installed for it; where the image tower is timm's, timm too."""


def main() -> None:
    """Runs one target."""
    target, folder, inputs, output = sys.argv[1:]
    source = pathlib.Path(inputs)
    pictures: list[Any] = [Image.open(p) for p in sorted((source / "pictures").glob("*.png"))]
    texts, ids = json.loads((source / "texts.json").read_text()), np.load(source / "ids.npy", allow_pickle=False)
    outputs: dict[str, Any] = PEERS[target][0](folder, pictures, texts, ids)
    np.savez(output, **outputs)


if __name__ == "__main__":
    main()

"""Preprocessors and tokenizers in the words of transformers."""

import json
import math
import pathlib
from typing import Any

import tokenizers as hf

from bigcl.data.tokenizers import FILE, SentencePiece, TokenizersJSON
from bigcl.interop import files, schema, sentencepiece
from bigcl.interop.model import Inexpressible, Method, Model, Preprocessing, clean_within
from bigcl.interop.presets import Preset

RESAMPLE: dict[Method, int] = {"lanczos": 1, "bilinear": 2, "bicubic": 3}
"""Pillow's numbers."""


def processor_config(preprocessing: Preprocessing, processor: str) -> dict[str, Any]:
    """Preprocessing in transformers' words."""
    size, edge = ({"height": n, "width": n} for n in (preprocessing.size, preprocessing.resized))
    return {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": processor,
        "do_resize": True,
        "size": {"shortest_edge": preprocessing.resized} if preprocessing.mode == "shortest" else edge,
        "do_center_crop": preprocessing.crops,
        "crop_size": size,
        **pixels_config(preprocessing),
        "do_convert_rgb": True,
    }


def pixels_config(preprocessing: Preprocessing) -> dict[str, Any]:
    """What the processors of all families are told of filter and colours."""
    return {
        "resample": RESAMPLE[preprocessing.method],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
    }


def write_tokenizer(model: Model, out: pathlib.Path) -> None:
    """Writes `tokenizer.json` and what transformers wants to know beside it."""
    assert model.tokenizer is not None
    tokenizer = model.tokenizer
    tokenizer.save(out / FILE)
    names = {"bos_token": tokenizer.prefix[-1:], "eos_token": tokenizer.suffix[:1], "pad_token": [tokenizer.pad_id]}
    length = model.tower("text")["length"]
    written = json.loads((out / FILE).read_text())
    written["truncation"] = {"direction": "Right", "max_length": length, "strategy": "LongestFirst", "stride": 0}
    written["padding"]["strategy"] = {"Fixed": length}
    files.write_json(written, out / FILE)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": length,
        "padding_side": "right",
        "truncation_side": "right",
        "split_special_tokens": True,  # a text that spells a mark does not get the mark
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids"],
        **{key: tokenizer.model.id_to_token(ids[0]) for key, ids in names.items() if ids},
    }
    files.write_json(config, out / "tokenizer_config.json")


PICTURES_SCHEMA = {
    "image_mean": schema.MEAN,
    "image_std": schema.STD,
    "resample": schema.ID,
    "do_center_crop": schema.nullable(schema.FLAG),
    **dict.fromkeys(("do_resize", "do_rescale", "do_normalize"), schema.nullable(schema.FLAG)),
    "rescale_factor": schema.nullable(schema.RATIO),
    "max_num_patches": schema.TOKENS,
}


def colours(record: dict[str, Any], preset: Preset) -> dict[str, list[float]]:
    """Mean and standard deviation that a record says, or the published ones. Raises Inexpressible for pixels of another
    range, or pictures that are not resized."""
    for key in ("do_resize", "do_rescale"):
        if record.get(key) is False:
            raise Inexpressible(
                f"preprocessor_config.json: {key} = False; bigcl's towers see pixels in [0, 1], resized"
            )
    factor = record.get("rescale_factor")
    if factor is not None and not math.isclose(factor, 1 / 255, rel_tol=1e-3):  # 0.00392156862745098, also rounded
        raise Inexpressible(f"preprocessor_config.json: rescale_factor = {factor}; bigcl's is 1 / 255")
    if record.get("do_normalize") is False:
        return {"mean": [0.0] * 3, "std": [1.0] * 3}
    mean, std = preset.colours
    return {"mean": list(record.get("image_mean", mean)), "std": list(record.get("image_std", std))}


def read_processor(folder: pathlib.Path, preset: Preset) -> dict[str, Any]:
    """What the folder says of pictures; nothing if it has no such file, so that the published record holds."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).exists():
            record = schema.read(folder / name, {"image_processor": {}})
            record = record.get("image_processor", record)
            schema.check(record, PICTURES_SCHEMA, f"{folder / name}: ")
            return record
    print(f"{folder}: no preprocessor_config.json: pictures as published: {preset.said()}")
    return {}


def read_tokenizer(folder: pathlib.Path) -> TokenizersJSON | None:
    """The tokenizer of a folder, padded with the token that its config names; None if there is no tokenizer.json."""
    if not (folder / FILE).exists():
        return None
    path = folder / "tokenizer_config.json"
    config = files.read_json(path) if path.exists() else {}
    token = config.get("pad_token")
    token = token.get("content") if isinstance(token, dict) else token
    if not isinstance(token, str | None):
        raise files.BadFile(f"{path}: pad_token = {schema.shown(token)}: expected a token, as a string")
    tokenizer = TokenizersJSON(str(folder / FILE))
    pad = None if token is None else tokenizer.model.token_to_id(token)
    tokenizer = tokenizer if pad is None else TokenizersJSON(str(folder / FILE), pad_id=pad)
    if config.get("tokenizer_class") in LOWERING:
        lowered(tokenizer)
    return tokenizer


def read_spiece(folder: pathlib.Path) -> TokenizersJSON | None:
    """The tokenizer of a SigLIP folder that has a SentencePiece model and no tokenizer.json; None if it has neither."""
    path = folder / "spiece.model"
    if not path.exists():
        return None
    opened = SentencePiece(str(path))
    opened.pad_id = opened.model.eos_id()  # whatever the model says of padding
    tokenizer = sentencepiece.as_file(opened)
    clean_within(tokenizer, "canonicalize")
    return tokenizer


def lowered(tokenizer: TokenizersJSON) -> None:
    """Makes it lower-case texts first."""
    old = tokenizer.model.normalizer
    steps = [hf.normalizers.Lowercase(), *([] if old is None else [old])]
    tokenizer.model.normalizer = hf.normalizers.Sequence(steps)


LOWERING = ("Siglip2Tokenizer", "GemmaTokenizer", "GemmaTokenizerFast")
"""Classes of the tokenizers beside a SigLIP 2, which lower-case texts whether or not their file says so."""


def preprocessing_of(record: dict[str, Any], tower: dict[str, Any], preset: Preset) -> Preprocessing:
    """Preprocessing from transformers' words; what they leave out is as published, as their processors have it."""
    crop, size = record.get("do_center_crop", preset.mode == "shortest"), tower["image_size"]
    resized, cropped = (side_of(record.get(key)) for key in ("size", "crop_size"))
    key, seen = ("crop_size", cropped) if crop and cropped else ("size", resized)
    if seen is not None and seen != size:
        print(f"preprocessor_config.json: {key} is {seen}, the tower's {size}; the tower's is taken")
    squash = not crop or (isinstance(record.get("size"), dict) and "height" in record["size"])
    preprocessing = Preprocessing(
        size,
        "squash" if squash else "shortest",
        method_of(record, preset.method),
        tuple(tower["mean"]),
        tuple(tower["std"]),
    )
    return preprocessing.cropping(size * resized // cropped) if crop and resized and cropped else preprocessing


def side_of(size: Any) -> int | None:
    """The pixels of a side, from a number or from numbers by name."""
    sides = size.values() if isinstance(size, dict) else [size]
    return next((side for side in sides if schema.PIXELS.fits(side)), None)


def method_of(record: dict[str, Any], default: Method) -> Method:
    """How a record says to resize. Raises Inexpressible."""
    number = record.get("resample", RESAMPLE[default])
    method = next((k for k, v in RESAMPLE.items() if v == number), None)
    if method is None:
        raise Inexpressible(f"preprocessor_config.json: resample {number}; bigcl has {RESAMPLE}")
    return method

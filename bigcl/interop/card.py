"""The model card of an exported folder."""

import json
import pathlib
import re
from collections.abc import Mapping, Set
from typing import Any

from bigcl import __version__
from bigcl.data.tokenizers import FILE
from bigcl.interop import files
from bigcl.interop.model import ORIGIN, Model
from bigcl.interop.proof import TOLERANCES, passed
from bigcl.log import read_rows

USE = {
    "open_clip": """import open_clip, torch
model, _, preprocess = open_clip.create_model_and_transforms("local-dir:{folder}")
images = torch.stack([preprocess(picture) for picture in pictures])
logits, _ = model.eval().get_logits(images, {ids})""",
    "transformers": """import transformers
model = transformers.AutoModel.from_pretrained("{folder}")
inputs = transformers.AutoImageProcessor.from_pretrained("{folder}")(images=pictures, return_tensors="pt")
logits = model(input_ids={ids}, **inputs).logits_per_image""",
    "timm": """import timm, torch
model = timm.create_model("local-dir:{folder}", pretrained=True).eval()
preprocess = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
embeddings = torch.nn.functional.normalize(model(torch.stack([preprocess(picture) for picture in pictures])))""",
    "safetensors": """from safetensors.numpy import load_file
arrays = load_file("{folder}/model.safetensors")  # by path in the task; config.json describes the task""",
    "jax": """import jax, safetensors.numpy
tower = jax.export.deserialize(bytearray(open("{folder}/{tower}.stablehlo", "rb").read()))
embeddings = tower.call(safetensors.numpy.load_file("{folder}/model.safetensors"), {input})""",
    "onnx": """import onnxruntime
tower = onnxruntime.InferenceSession("{folder}/image.onnx")
embeddings = tower.run(None, {{"image": pixels}})[0]""",
}

TOKENIZED = {
    "open_clip": """open_clip.get_tokenizer("local-dir:{folder}")(texts)""",
    "transformers": """transformers.PreTrainedTokenizerFast.from_pretrained("{folder}")(
    texts, padding="max_length", truncation=True, return_tensors="pt"
)["input_ids"]""",
}

INPUTS = {
    "pictures": "PIL images",
    "texts": "a list of strings",
    "ids": "token ids `[n, length]`",
    "pixels": "uint8 `[n, height, width, 3]`, resized as `config.json` says",
}

WORDS = {
    "image": "image embeddings, of length 1",
    "text": "text embeddings, of length 1",
    "logits": "logits",
    "pixels": "pixels after resizing, in levels of 0 to 255",
    "ids": "token ids",
    "resized": "image embeddings of pictures that had to be resized",
}

LIBRARY = {"open_clip": "open_clip", "transformers": "transformers", "timm": "timm", "onnx": "onnx"}
PIPELINES = {
    frozenset({"image", "text"}): "zero-shot-image-classification",
    frozenset({"image"}): "image-feature-extraction",
    frozenset({"text"}): "sentence-similarity",
}
"""What the Hub calls the use of a folder with these towers."""


def write_card(target: str, model: Model, folder: pathlib.Path, figures: dict[str, float] | None) -> None:
    """Writes `README.md`: what the model is, how to load it, the proof, the results, and the limits."""
    held = {name for name in model.task["towers"] if target != "timm" or name == "image"}
    head = [f"library_name: {LIBRARY[target]}"] if target in LIBRARY else []
    pipeline = [f"pipeline_tag: {PIPELINES[frozenset(held)]}"] if frozenset(held) in PIPELINES else []
    lines = ["---", *head, *pipeline, "tags: [bigcl, contrastive]", "---", "", f"# {folder.absolute().name}", ""]
    numbers = sum(a.size for k, a in model.arrays.items() if target != "timm" or k.startswith("towers/image/"))
    alone = f"The {min(held)} tower alone: " if len(held) == 1 else ""
    lines += [f"{alone}{numbers:,} parameters, exported by bigcl {__version__} for {target}.", ""]
    code = usage(target, model, folder.name)
    given = [f"`{name}` are {what}" for name, what in INPUTS.items() if re.search(rf"\b{name}\b", code)]
    lines += [*([", ".join(given) + ":", ""] if given else []), "```python", code, "```", ""]
    lines += ["## Is it the same model?", "", *proof_lines(target, model, held, figures), ""]
    lines += [*training_lines(model), "## Limits", "", *limits(target, model, held), ""]
    lines += ["## Config", "", "```json", json.dumps(model.task, ensure_ascii=False, indent=1), "```", ""]
    (folder / "README.md").write_text("\n".join(lines))


def usage(target: str, model: Model, folder: str) -> str:
    """Code that loads `folder` and runs what is in it on the INPUTS."""
    ids = "ids" if model.tokenizer is None else TOKENIZED.get(target, "").format(folder=folder)
    tower, x = ("image", "pixels") if "image" in model.task["towers"] else ("text", "ids")
    return USE[target].format(folder=folder, ids=ids, tower=tower, input=x)


def proof_lines(target: str, model: Model, held: Set[str], figures: dict[str, float] | None) -> list[str]:
    """The figures of the proof, or that there was none. held: the towers in the folder."""
    if figures is None:
        return ["Not checked (`--no-verify`)."]
    if target == "safetensors":
        return [f"{len(figures)} tensors read back in another process, {sum(map(bool, figures.values()))} differ."]
    said = "passed" if passed(figures) else "FAILED"
    inputs, own = (["raw pictures"], ["preprocessing"]) if "image" in held else ([], [])
    if "text" in held and model.tokenizer is not None:
        inputs, own = [*inputs, "texts"], [*own, "tokenizer"]
    elif "text" in held:
        inputs = [*inputs, "token ids (there is no tokenizer in the folder)"]
    head = [
        f"The same {' and '.join(inputs)} through {target}'s own {', '.join([*own, 'model'])}, in a process of its "
        f"own, and through bigcl, in float32: {said}.",
        "",
        "| output | largest difference | tolerance |",
        "|---|--:|--:|",
    ]
    return head + [f"| {WORDS[k]} | {v:.1e} | {TOLERANCES.get(k, '')} |" for k, v in figures.items()]


def training_lines(model: Model) -> list[str]:
    """What it was trained on and what it reached, where the run says so."""
    config = model.card.get("config", {})
    if "train" not in config:
        return ["## Training", "", conversion(config), ""]
    train, step = config["train"], model.card["step"]
    lines = ["## Training", "", *(f"- started from {origin}" for origin in origins(model))]
    lines += [f"- data: `{json.dumps(config['data']['source'], ensure_ascii=False)}`"]
    lines += [f"- step {step:,} of {train['steps']:,}, batch {train['batch']:,}"]
    lines += [f"- optimizer: `{json.dumps(config['optim']['optimizer'])}`, lr {config['optim']['lr']}"]
    if train.get("ema"):
        lines += [f"- weights: moving average with decay {train['ema']}"]
    results = [r for r in read_rows(model.card["rows"]) if r["step"] == step]
    numbers = {k: v for row in results for k, v in row.items() if k.startswith("eval/")}
    if numbers:
        command = f"python -m bigcl.evaluate --workdir {shown(model.card['workdir'])} --step {step}"
        lines += ["", f"Results (`{command}`):", "", "| metric | value |", "|---|--:|"]
        lines += [f"| {k.removeprefix('eval/')} | {v:.4f} |" for k, v in numbers.items() if v is not None]
    return [*lines, ""]


def conversion(config: Mapping[str, Any]) -> str:
    """The sentence that says by which command a model came in, as far as its config does."""
    origin = config.get("origin", {})
    options = "".join(f" --{name} {origin[name]}" for name in ORIGIN if name in origin)
    resized = ", which resized the position embeddings" if "image_size" in origin else ""
    return f"Weights of another library, brought in by `python -m bigcl.convert{options}`{resized}."


def origins(model: Model) -> list[str]:
    """What the run started from: `checkpoint.init_from`, for people."""
    options = model.card.get("config", {}).get("checkpoint", {})
    given, only = options.get("init_from"), options.get("init_only") or [".*"]
    if isinstance(given, Mapping):
        return [f"`{shown(folder)}` (`{part}`)" for part, folder in given.items()]
    parts = "" if list(only) == [".*"] else f" ({', '.join(f'`{pattern}`' for pattern in only)})"
    return [] if given is None else [f"`{shown(given)}`{parts}"]


def shown(folder: pathlib.Path | str) -> str:
    """A folder as it was given, with `#` and a part; of an absolute one the end, which says nothing of a machine."""
    path, mark, part = str(folder).partition("#")
    whole = pathlib.PurePath(path)
    kept = whole.parts[-2 if whole.name == "checkpoints" else -1 :] if whole.is_absolute() else whole.parts
    return f"{pathlib.PurePath(*kept)}{mark}{part}"


def limits(target: str, model: Model, held: Set[str]) -> list[str]:
    """What to mind when using it. held: the towers in the folder."""
    lines = ["- It was trained on the data above and on nothing else; other inputs may mean little to it."]
    if origins(model):
        lines = [
            "- It was trained on the data above, from weights that were trained elsewhere, and knows what both saw."
        ]
    elif "train" not in model.card.get("config", {}):
        lines = ["- What it was trained on, those say who published the weights."]
    if model.preprocessing is not None:
        lines += [
            "- bigcl lays transparent pictures over white; other libraries drop the transparency. Lay them first."
        ]
    if "text" in held and (length := model.length):
        lines += [f"- Texts are cut to {length} tokens and must be padded to {length}."]
    if target == "transformers":
        lines += ['- transformers resizes by torchvision, up to one level from Pillow; `backend="pil"` is exact.']
        if model.task["towers"].get("image", {}).get("naflex"):
            lines += ["- `AutoProcessor` takes every tokenizer beside a SigLIP 2 for Gemma's: prepare texts as above."]
    if target == "open_clip":
        lines += ["- open_clip repairs texts before its tokenizer (HTML entities, broken Unicode, double spaces)."]
    return lines


def write_description(model: Model, folder: pathlib.Path) -> None:
    """`config.json` for targets without a config of their own: the task, preprocessing, tokenizer."""
    preprocessing = None if model.preprocessing is None else vars(model.preprocessing)
    tokenizer = None
    if model.tokenizer is not None:
        tokenizer = FILE
        model.tokenizer.save(folder / FILE)
    description = {"task": model.task, "preprocessing": preprocessing, "tokenizer": tokenizer}
    files.write_json(description, folder / "config.json")

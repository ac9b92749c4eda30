"""The model card of an exported folder."""

import json
import pathlib
import re

from bigcl import __version__
from bigcl.data.tokenizers import FILE
from bigcl.interop import files
from bigcl.interop.model import Model
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


def write_card(target: str, model: Model, folder: pathlib.Path, figures: dict[str, float] | None) -> None:
    """Writes `README.md`: what the model is, how to load it, the proof, the results, and the limits."""
    head = [f"library_name: {LIBRARY[target]}"] if target in LIBRARY else []
    pipeline = ["pipeline_tag: zero-shot-image-classification"] if "text" in model.task["towers"] else []
    lines = ["---", *head, *pipeline, "tags: [bigcl, contrastive]", "---", "", f"# {folder.absolute().name}", ""]
    numbers = sum(a.size for a in model.arrays.values())
    lines += [f"{numbers:,} parameters, exported by bigcl {__version__} for {target}.", ""]
    code = usage(target, model, folder.name)
    given = [f"`{name}` are {what}" for name, what in INPUTS.items() if re.search(rf"\b{name}\b", code)]
    lines += [*([", ".join(given) + ":", ""] if given else []), "```python", code, "```", ""]
    lines += ["## Is it the same model?", "", *proof_lines(target, figures), ""]
    lines += [*training_lines(model), "## Limits", "", *limits(target, model), ""]
    lines += ["## Config", "", "```json", json.dumps(model.task, ensure_ascii=False, indent=1), "```", ""]
    (folder / "README.md").write_text("\n".join(lines))


def usage(target: str, model: Model, folder: str) -> str:
    """Code that loads `folder` and runs what is in it on the INPUTS."""
    ids = "ids" if model.tokenizer is None else TOKENIZED.get(target, "").format(folder=folder)
    tower, x = ("image", "pixels") if "image" in model.task["towers"] else ("text", "ids")
    return USE[target].format(folder=folder, ids=ids, tower=tower, input=x)


def proof_lines(target: str, figures: dict[str, float] | None) -> list[str]:
    """The figures of the proof, or that there was none."""
    if figures is None:
        return ["Not checked (`--no-verify`)."]
    if target == "safetensors":
        return [f"{len(figures)} tensors read back in another process, {sum(map(bool, figures.values()))} differ."]
    said = "passed" if passed(figures) else "FAILED"
    head = [
        f"The same raw pictures and texts through {target}'s own preprocessing, tokenizer and model, in a process of "
        f"its own, and through bigcl, in float32: {said}.",
        "",
        "| output | largest difference | tolerance |",
        "|---|--:|--:|",
    ]
    return head + [f"| {WORDS[k]} | {v:.1e} | {TOLERANCES.get(k, '')} |" for k, v in figures.items()]


def training_lines(model: Model) -> list[str]:
    """What it was trained on and what it reached, where the run says so."""
    config = model.card.get("config", {})
    if "train" not in config:
        return ["## Training", "", "Weights of another library, brought in by `python -m bigcl.convert`.", ""]
    train, step = config["train"], model.card["step"]
    lines = ["## Training", ""]
    lines += [f"- data: `{json.dumps(config['data']['source'], ensure_ascii=False)}`"]
    lines += [f"- step {step:,} of {train['steps']:,}, batch {train['batch']:,}"]
    lines += [f"- optimizer: `{json.dumps(config['optim']['optimizer'])}`, lr {config['optim']['lr']}"]
    if train.get("ema"):
        lines += [f"- weights: moving average with decay {train['ema']}"]
    results = [r for r in read_rows(model.card["rows"]) if r["step"] == step]
    numbers = {k: v for row in results for k, v in row.items() if k.startswith("eval/")}
    if numbers:
        command = f"python -m bigcl.evaluate --workdir {model.card['workdir'].name} --step {step}"
        lines += ["", f"Results (`{command}`):", "", "| metric | value |", "|---|--:|"]
        lines += [f"| {k.removeprefix('eval/')} | {v:.4f} |" for k, v in numbers.items() if v is not None]
    return [*lines, ""]


def limits(target: str, model: Model) -> list[str]:
    """What to mind when using it."""
    lines = ["- It was trained on the data above and on nothing else; other inputs may mean little to it."]
    if model.preprocessing is not None:
        lines += [
            "- bigcl lays transparent pictures over white; other libraries drop the transparency. Lay them first."
        ]
    if "text" in model.task["towers"]:
        length = model.tower("text")["length"]
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

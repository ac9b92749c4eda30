"""Retrieval of held-out emoji by a trained model: as bigcl logged it, and as open_clip and transformers find it, which
load the exported model and have raw pictures and texts, their own preprocessing, tokenizer and embeddings, and nothing
of bigcl. A JSON line each.

    python -m benchmarks.exported --workdir runs/emoji_registers
"""

import argparse
import contextlib
import importlib
import io
import json
import pathlib
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from bigcl.data.sources.emoji import Emoji
from bigcl.export import export
from bigcl.interop.model import Inexpressible
from bigcl.log import read_rows

importlib.import_module("tests.interop.conftest")  # lets torchvision for CUDA load beside a CPU build of torch
import open_clip  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

Pair = tuple[torch.Tensor, torch.Tensor]
METRICS = [f"{way}/recall@{k}" for way in ("text_to_image", "image_to_text") for k in (1, 5, 10)]
METRICS += ["text_to_image/median_rank"]


def with_open_clip(folder: str, pictures: Sequence[Image.Image], texts: Sequence[str]) -> Pair:
    """Normalised embeddings `[n, d]` of pictures and texts."""
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    model.eval()
    image = model.encode_image(torch.stack([preprocess(p) for p in pictures]), normalize=True)
    return image, model.encode_text(open_clip.get_tokenizer(f"local-dir:{folder}")(list(texts)), normalize=True)


def with_transformers(folder: str, pictures: Sequence[Image.Image], texts: Sequence[str]) -> Pair:
    """Normalised embeddings `[n, d]` of pictures and texts."""
    model = transformers.AutoModel.from_pretrained(folder).eval()
    inputs = transformers.AutoProcessor.from_pretrained(folder)(
        text=list(texts), images=list(pictures), padding="max_length", truncation=True, return_tensors="pt"
    )
    result = model(input_ids=inputs["input_ids"], pixel_values=inputs["pixel_values"])
    return result.image_embeds, result.text_embeds


LIBRARIES: dict[str, Callable[..., Pair]] = {"open_clip": with_open_clip, "transformers": with_transformers}


def recalls(queries: torch.Tensor, items: torch.Tensor, way: str) -> dict[str, float]:
    """Recall at 1, 5 and 10, and median rank, of queries that look for the item of the same number; a tie is no hit."""
    scores = queries @ items.T
    ranks = (scores >= scores.diagonal()[:, None]).sum(1)
    recall = {f"{way}/recall@{k}": (ranks <= k).double().mean().item() for k in (1, 5, 10)}
    return {**recall, f"{way}/median_rank": ranks.double().quantile(0.5).item()}


def opened(example: dict[str, Any]) -> Image.Image:
    """The picture of an example."""
    return Image.open(io.BytesIO(example["image"]))


def found_by(library: str, workdir: pathlib.Path, out: pathlib.Path) -> dict[str, float]:
    """METRICS of the run's last step, computed by a library from what `bigcl.export` wrote to `out`."""
    export(workdir, library, out, verify=False)
    source = Emoji("test")
    examples = [source[i] for i in range(len(source))]
    with torch.inference_mode():
        image, text = LIBRARIES[library](str(out), [opened(e) for e in examples], [e["text"] for e in examples])
    found = recalls(text, image, "text_to_image") | recalls(image, text, "image_to_text")
    return {name: found[name] for name in METRICS}


def logged(workdir: pathlib.Path) -> dict[str, float]:
    """METRICS of the run's last evaluation."""
    values = {k: v for row in read_rows(workdir / "metrics.jsonl") for k, v in row.items()}
    return {name: values[f"eval/retrieval/{name}"] for name in METRICS}


def main() -> None:
    """Prints what each finds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="a run of configs/emoji.py")
    workdir = parser.parse_args().workdir
    print(json.dumps({"library": "bigcl", **logged(workdir)}))
    for library in LIBRARIES:
        found: dict[str, Any]
        with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(sys.stderr):
            try:
                found = found_by(library, workdir, pathlib.Path(scratch) / "out")
            except Inexpressible as error:
                found = {"skipped": str(error)}
        print(json.dumps({"library": library, **found}))


if __name__ == "__main__":
    main()

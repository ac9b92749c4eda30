"""A run of the quick start, exported, finds the same emoji there: recall from open_clip and transformers alone."""

import io
import pathlib

import numpy as np
import pytest
from PIL import Image

for package in ("torch", "transformers", "open_clip", "timm"):
    pytest.importorskip(package, reason=f"runs {package}: pip install '.[interop-test]'")

import open_clip  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

from bigcl.data.sources.emoji import Emoji  # noqa: E402
from bigcl.export import export  # noqa: E402
from bigcl.log import read_rows  # noqa: E402

pytestmark = pytest.mark.slow


def recalls(image, text):
    """Recall at 1, 5 and 10 and the median rank of texts that look for their picture."""
    scores = (text @ image.T).numpy()
    ranks = (scores >= scores.diagonal()[:, None]).sum(1)
    return {f"recall@{k}": (ranks <= k).mean() for k in (1, 5, 10)} | {"median_rank": np.median(ranks)}


def with_open_clip(folder, pictures, texts):
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    model.eval()
    image = model.encode_image(torch.stack([preprocess(p) for p in pictures]), normalize=True)
    return image, model.encode_text(open_clip.get_tokenizer(f"local-dir:{folder}")(texts), normalize=True)


def with_transformers(folder, pictures, texts):
    model = transformers.AutoModel.from_pretrained(folder).eval()
    inputs = transformers.AutoProcessor.from_pretrained(folder)(
        text=texts, images=pictures, padding="max_length", truncation=True, return_tensors="pt"
    )
    result = model(input_ids=inputs["input_ids"], pixel_values=inputs["pixel_values"])
    return result.image_embeds, result.text_embeds


@pytest.mark.parametrize("target, encode", [("open_clip", with_open_clip), ("transformers", with_transformers)])
def test_same_recall(target, encode, workdir, tmp_path):
    export(workdir, target, tmp_path / "out", verify=False)
    source = Emoji("test")
    pictures = [Image.open(io.BytesIO(source[i]["image"])) for i in range(len(source))]
    with torch.inference_mode():
        found = recalls(*encode(str(tmp_path / "out"), pictures, [source[i]["text"] for i in range(len(source))]))
    here = {k: v for row in read_rows(pathlib.Path(workdir) / "metrics.jsonl") for k, v in row.items()}
    assert found == pytest.approx({k: here[f"eval/retrieval/text_to_image/{k}"] for k in found})

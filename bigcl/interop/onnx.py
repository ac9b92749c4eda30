"""ONNX, for onnxruntime: PyTorch's exporter on what transformers makes of the model (timm of a lone image tower)."""

import pathlib
import tempfile
from typing import Any

import numpy as np

from bigcl.interop import huggingface, timm
from bigcl.interop.card import write_description
from bigcl.interop.model import Inexpressible, Model


def export(model: Model, out: pathlib.Path) -> None:
    """Writes `<input>.onnx`, from uint8 pixels `[b, h, w, 3]` or int64 token ids `[b, n]` to normalised embeddings; of
    image and text also `logits.onnx`, from `image_embedding` `[n, d]` and `text_embedding` `[m, d]` to `[n, m]`.

    Raises Inexpressible for what transformers has no form for, ImportError without PyTorch.
    """
    try:
        import onnxscript  # noqa: F401, torch.onnx needs it
        import torch
    except ImportError as error:
        raise ImportError('--to onnx: torch and onnxscript do the work: pip install "bigcl[export]"') from error
    with tempfile.TemporaryDirectory() as scratch:
        towers = torch_towers(model, pathlib.Path(scratch))
    for name, (tower, example) in towers.items():
        write_graph(tower, out / f"{name}.onnx", f"{name}_embedding", {name: example})
    if len(towers) > 1:
        width = model.tower("text")["embed_dim"] or model.tower("text")["width"]
        embeddings = {"image_embedding": torch.zeros((2, width)), "text_embedding": torch.zeros((3, width))}
        write_graph(torch_logits(model), out / "logits.onnx", "logits", embeddings)
    write_description(model, out)


def write_graph(module: Any, path: pathlib.Path, output: str, examples: dict[str, Any]) -> None:
    """Writes a PyTorch module with inputs of these names and any number of rows of each."""
    import torch

    rows = tuple({0: torch.export.Dim(f"b{i}", min=1)} for i in range(len(examples)))
    torch.onnx.export(
        module, tuple(examples.values()), str(path), input_names=list(examples), output_names=[output],
        dynamic_shapes=rows, dynamo=True, external_data=False, verbose=False,
    )  # fmt: skip


def torch_logits(model: Model) -> Any:
    """A PyTorch module from embeddings to logits."""
    import torch

    scale, bias = float(np.exp(model.arrays["log_scale"])), float(model.arrays.get("bias", 0.0))

    class Logits(torch.nn.Module):
        """Cosines times the learned inverse temperature, and the bias of a sigmoid loss."""

        def forward(self, image: Any, text: Any) -> Any:
            return scale * image @ text.T + bias

    return Logits().eval()


def torch_towers(model: Model, folder: pathlib.Path) -> dict[str, tuple[Any, Any]]:
    """PyTorch modules from raw inputs to normalised embeddings, each with an example of its input."""
    import torch

    if model.tower("image").get("naflex"):
        raise Inexpressible("task.towers.image.naflex = True: an ONNX tower has one input of one shape")
    lone = "text" not in model.task["towers"]
    (timm if lone else huggingface).export(model, folder)
    if lone:
        import timm as library

        whole: Any = library.create_model(f"local-dir:{folder}", pretrained=True).eval()
    else:
        import transformers

        whole = transformers.AutoModel.from_pretrained(folder).eval()
    assert model.preprocessing is not None
    mean, std = (torch.tensor(np.array(x, np.float32)) for x in (model.preprocessing.mean, model.preprocessing.std))

    class Image(torch.nn.Module):
        """Normalises the pixels too."""

        def __init__(self) -> None:
            super().__init__()
            self.model = whole

        def forward(self, image: Any) -> Any:
            x = ((image.float() / 255 - mean) / std).permute(0, 3, 1, 2)
            embedding = self.model(x) if lone else self.model.get_image_features(pixel_values=x).pooler_output
            return torch.nn.functional.normalize(embedding, dim=-1)

    class Text(torch.nn.Module):
        """Takes ids of the full length, padding included."""

        def __init__(self) -> None:
            super().__init__()
            self.model = whole

        def forward(self, text: Any) -> Any:
            return torch.nn.functional.normalize(self.model.get_text_features(input_ids=text).pooler_output, dim=-1)

    size = model.preprocessing.size
    found: dict[str, tuple[Any, Any]] = {"image": (Image().eval(), torch.zeros((2, size, size, 3), dtype=torch.uint8))}
    if not lone:
        tower = model.tower("text")
        ids = torch.full((2, tower["length"]), tower["vocab"] - 1, dtype=torch.int64)
        found["text"] = (Text().eval(), ids)
    return found

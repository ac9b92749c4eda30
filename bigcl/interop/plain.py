"""The arrays under bigcl's own names, for whoever writes the model anew."""

import pathlib

from bigcl.interop import files
from bigcl.interop.card import write_description
from bigcl.interop.model import Model


def export(model: Model, out: pathlib.Path) -> None:
    """Writes `model.safetensors` by path in the task, and `config.json` with the task and the preprocessing."""
    files.write_safetensors(model.arrays, out / "model.safetensors")
    write_description(model, out)

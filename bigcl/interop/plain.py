"""The arrays under bigcl's own names, for whoever writes the model anew."""

import pathlib

from bigcl.data.tokenizers import TokenizersJSON
from bigcl.interop import files
from bigcl.interop.card import write_description
from bigcl.interop.model import Model, Preprocessing, blank
from bigcl.interop.table import differ


def export(model: Model, out: pathlib.Path) -> None:
    """Writes `model.safetensors` by path in the task, and `config.json` with the task and the preprocessing."""
    files.write_safetensors(model.arrays, out / "model.safetensors")
    write_description(model, out)


def load(path: pathlib.Path) -> Model:
    """A folder that `export` wrote, or that of the compiled towers, which holds the same arrays."""
    weights = files.find_weights(path)
    config = files.read_json(weights.with_name("config.json"))
    if not isinstance(config.get("task"), dict):
        raise files.BadFile(f"{weights.with_name('config.json')}: no task; bigcl.export --to safetensors writes one")
    task, shapes = blank(config["task"])
    arrays = files.read_tensors(weights)
    differ(shapes, {k: v.shape for k, v in arrays.items()}, str(weights))
    how, name = config.get("preprocessing"), config.get("tokenizer")
    if name is not None and pathlib.PurePath(name).name != name:
        raise files.BadFile(f"{weights.with_name('config.json')}: tokenizer {name!r} is outside its folder")
    tokenizer = None if name is None else TokenizersJSON(str(weights.with_name(name)))
    return Model(task, arrays, tokenizer, None if how is None else Preprocessing(**how))

"""The arrays under bigcl's own names, for whoever writes the model anew."""

import pathlib

from bigcl.data.tokenizers import TokenizersJSON
from bigcl.interop import files, schema
from bigcl.interop.card import write_description
from bigcl.interop.model import Model, Preprocessing, blank
from bigcl.interop.table import differ

TOWER_SCHEMA = {
    "kind": schema.needed(schema.WORD),
    **dict.fromkeys(("width", "mlp_width", "embed_dim"), schema.nullable(schema.WIDTH)),
    **dict.fromkeys(("depth", "heads", "patch"), schema.nullable(schema.DEPTH)),
    "widths": schema.Kind("a list of widths", lambda x: isinstance(x, list) and all(map(schema.WIDTH.fits, x))),
    "image_size": schema.PIXELS,
    "channels": schema.WIDTH,
    "registers": schema.whole(1 << 10, lowest=0),
    "vocab": schema.nullable(schema.VOCABULARY),
    "length": schema.TOKENS,
    **dict.fromkeys(("norm_eps", "dropout", "patch_dropout"), schema.Kind("a number", schema.is_number)),
    "mean": schema.MEAN,
    "std": schema.STD,
}
PREPROCESSING_SCHEMA = {
    "size": schema.needed(schema.PIXELS),
    "mode": schema.one_of("shortest", "squash", "naflex"),
    "method": schema.one_of("bicubic", "bilinear", "lanczos"),
    "mean": schema.MEAN,
    "std": schema.STD,
    "patch": schema.nullable(schema.PATCH),
    "tokens": schema.nullable(schema.TOKENS),
    "edge": schema.nullable(schema.PIXELS),
}
SCHEMA = {
    "task": {"kind": schema.needed(schema.WORD), "towers": schema.Each(TOWER_SCHEMA)},
    "preprocessing": schema.Maybe(PREPROCESSING_SCHEMA),
    "tokenizer": schema.nullable(schema.FILE_NAME),
}


def export(model: Model, out: pathlib.Path) -> None:
    """Writes `model.safetensors` by path in the task, and `config.json` with the task and the preprocessing."""
    files.write_safetensors(model.arrays, out / "model.safetensors")
    write_description(model, out)


def load(path: pathlib.Path) -> Model:
    """A folder that `export` wrote, or that of the compiled towers, which holds the same arrays."""
    weights = files.find_weights(path)
    where = weights.with_name("config.json")
    config = schema.read(where, SCHEMA)
    if "task" not in config or "towers" not in config["task"]:
        raise files.BadFile(f"{where}: no task with towers; bigcl.export --to safetensors writes one")
    task, shapes = blank(config["task"])
    arrays = files.read_tensors(weights)
    differ(shapes, {k: v.shape for k, v in arrays.items()}, str(weights))
    how, name = config.get("preprocessing"), config.get("tokenizer")
    if how is not None and not how.keys() <= PREPROCESSING_SCHEMA.keys():
        raise files.BadFile(f"{where}: preprocessing has {', '.join(how)}; known: {', '.join(PREPROCESSING_SCHEMA)}")
    tokenizer = None if name is None else TokenizersJSON(str(weights.with_name(name)))
    return Model(task, arrays, tokenizer, None if how is None else Preprocessing(**how))

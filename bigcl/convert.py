"""Brings published weights in: `python -m bigcl.convert --from open_clip --path DIR --out runs/clip_b32`.

--from   open_clip | transformers | timm | big_vision_npz | safetensors (what `bigcl.export` writes)
--path   a folder with weights and their config, as the library writes it, or the file of weights in it
--out    a new folder: `checkpoints` (for `checkpoint.init_from` in a config), `config.json` with the task, and the
         tokenizer where there is one; `bigcl.export --workdir` reads it too
--preset  what weights without a config beside them are (--from open_clip): openai, open_clip, coca, ...
--image_size  another resolution; the position embeddings are resized, which changes the model

Nothing that a file names is called. Nothing is converted in part: if weights do not fit, the differences are printed.
"""

import argparse
import importlib
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from bigcl import host
from bigcl.registry import ConfigError, nearest

if TYPE_CHECKING:
    from bigcl.interop.model import Model

SOURCES = {
    "open_clip": "bigcl.interop.open_clip",
    "transformers": "bigcl.interop.huggingface",
    "timm": "bigcl.interop.timm",
    "big_vision_npz": "bigcl.interop.big_vision",
    "safetensors": "bigcl.interop.plain",
}


def main() -> None:
    """Converts one model and says what it is."""
    parser = argparse.ArgumentParser(
        prog="python -m bigcl.convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--from", dest="source", required=True, choices=SOURCES)
    parser.add_argument("--path", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--image_size", type=int)
    parser.add_argument("--preset")
    args = parser.parse_args()
    host.configure_jax()
    from bigcl.checkpoint import CheckpointError

    try:
        convert(args.source, args.path, args.out, args.image_size, args.preset)
    except (ValueError, ImportError, OSError, CheckpointError) as error:
        sys.exit(f"error: {error}")


def read_model(source: str, path: pathlib.Path, preset: str | None = None) -> "Model":
    """The model of another library in a folder, or its file of weights. preset: what weights without a config are.

    Raises BadFile for what is damaged or missing in the files, Mismatch with all tensors that do not fit their config,
    Inexpressible and other ConfigErrors for what bigcl has no form for, FileNotFoundError, ImportError.
    """
    from bigcl.interop.files import BadFile
    from bigcl.interop.presets import PRESETS
    from bigcl.interop.table import Mismatch

    if preset is not None and preset not in PRESETS:
        raise ConfigError(f"--preset: unknown {preset!r}; {nearest(preset, PRESETS)}")
    if preset is not None and source != "open_clip":
        raise ConfigError(f"--preset: with --from {source} the files say what they are; leave it out")
    try:
        return importlib.import_module(SOURCES[source]).load(path, *([] if preset is None else [preset]))
    except (BadFile, ConfigError, Mismatch) as error:
        if str(path) in str(error):
            raise
        raise type(error)(f"{path}: {error}") from error


def convert(
    source: str, path: pathlib.Path, out: pathlib.Path, image_size: int | None = None, preset: str | None = None
) -> None:
    """Reads a model of another library, strictly, and writes it as a folder of bigcl's.

    Raises ValueError (Mismatch, BadFile, Inexpressible), ImportError or OSError with a message for people.
    """
    from bigcl.interop.model import save
    from bigcl.interop.resize import resize_positions

    model = read_model(source, path, preset)
    origin: dict[str, Any] = {"from": source, "path": path.absolute().name}
    origin |= {} if preset is None else {"preset": preset}
    if image_size is not None and "image" not in model.task["towers"]:
        raise ConfigError("--image_size: the model has no image tower; leave it out")
    if image_size is not None and image_size != model.tower("image", "resnet")["image_size"]:
        print(resize_positions(model, image_size))
        origin["image_size"] = image_size
    save(model, out, origin)
    numbers = sum(a.size for a in model.arrays.values())
    print(f"{out}: {numbers:,} parameters in {len(model.arrays)} arrays")
    for name, part in model.task["towers"].items():
        print(f"  towers.{name}: " + ", ".join(f"{k}={v}" for k, v in part.items() if v not in (None, False)))
    if "text" in model.task["towers"] and model.tokenizer is None:
        print("  no tokenizer.json beside the weights: set `tokenizer` in the config of a run yourself")
    print(f"to start a run from it: --config.checkpoint.init_from={out / 'checkpoints'}")


if __name__ == "__main__":
    host.end_with_reader()
    main()

"""Takes a trained model out: `python -m bigcl.export --workdir runs/emoji --to transformers --out DIR [--step N]`.

--to   open_clip     open_clip.create_model_and_transforms("local-dir:DIR"), get_tokenizer
       transformers  AutoModel, AutoProcessor.from_pretrained(DIR): CLIPModel, SiglipModel, VisionTextDualEncoderModel
       timm          the image tower, timm.create_model("local-dir:DIR", pretrained=True)
       safetensors   the arrays under bigcl's own names
       jax           the compiled towers as StableHLO, jax.export.deserialize
       onnx          the towers for onnxruntime
--out  a new folder: weights, config, preprocessing, tokenizer, and a model card (README.md)

Then DIR is loaded by the target's own library in a process of its own, and the same raw pictures and texts must give
the same embeddings and logits as here; otherwise the command fails, and leaves DIR for you to look at. --no-verify
leaves the proof out. A model that the target has no form for is refused, with the option that stands in the way.
"""

import argparse
import contextlib
import importlib
import pathlib
import sys
from collections.abc import Iterator

from bigcl import host

TARGETS = {
    "open_clip": "bigcl.interop.open_clip",
    "transformers": "bigcl.interop.huggingface",
    "timm": "bigcl.interop.timm",
    "safetensors": "bigcl.interop.plain",
    "jax": "bigcl.interop.stablehlo",
    "onnx": "bigcl.interop.onnx",
}


def main() -> None:
    """Exports one model, proves it, and says where it is."""
    parser = argparse.ArgumentParser(
        prog="python -m bigcl.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="a run, or what bigcl.convert wrote")
    parser.add_argument("--to", dest="target", required=True, choices=TARGETS)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--step", type=int, help="a step that has a checkpoint; default: the latest")
    parser.add_argument("--no-verify", dest="verify", action="store_false")
    args = parser.parse_args()
    host.configure_jax()
    from bigcl.checkpoint import CheckpointError
    from bigcl.interop.proof import Unproven

    try:
        export(args.workdir, args.target, args.out, args.step, verify=args.verify)
    except (ValueError, ImportError, OSError, CheckpointError, Unproven) as error:
        sys.exit("\n".join([f"error: {error}", *getattr(error, "__notes__", ())]))


def export(
    workdir: pathlib.Path, target: str, out: pathlib.Path, step: int | None = None, *, verify: bool = True
) -> dict[str, float] | None:
    """Writes the model of a run for another library. Returns the largest difference of each output, if verified.

    Raises Inexpressible (a ConfigError) if the target has no form for the model, Unproven if it is not the same there.
    """
    from bigcl.interop import card, proof
    from bigcl.interop.model import expect_one_scale, load

    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"--out: {out} is not empty; choose another folder")
    model = load(workdir, step)
    write = importlib.import_module(TARGETS[target]).export
    if target in ("open_clip", "transformers", "timm", "onnx"):
        expect_one_scale(model.task, target)
    if verify:
        proof.check_installed(target, model)
    with named(out):
        write(model, out)
        figures = proof.prove(target, model, out) if verify else None
        card.write_card(target, model, out, figures)
    print(f"{out}: step {model.card['step']} of {workdir} for {target}")
    if figures is None:
        print("  not verified")
        return None
    for name, value in figures.items() if target != "safetensors" else ():
        print(f"  {name:<8}largest difference {value:.1e}")
    if not proof.passed(figures):
        raise proof.Unproven(f"{out}: {target} gives something else than bigcl: {figures}")
    print("  verified: the same model there")
    return figures


@contextlib.contextmanager
def named(out: pathlib.Path) -> Iterator[None]:
    """Makes a folder. An error names it if something was written there until then; else it is removed."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException as error:
        if any(out.iterdir()):
            error.add_note(f"What was written until then is in {out}.")
        else:
            out.rmdir()
        raise


if __name__ == "__main__":
    host.end_with_reader()
    main()

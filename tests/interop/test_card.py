"""What a model card says is so: of the towers in the folder, of what they were trained on, of the proof."""

import pathlib
import re

import numpy as np
import pytest

from bigcl.data.tokenizers import TokenizersJSON, train_bpe
from bigcl.interop import card
from bigcl.interop.model import Model, Preprocessing, blank

SIZES = {"width": 16, "depth": 1, "heads": 2, "embed_dim": 8}
IMAGE = {"kind": "vit", "image_size": 8, "patch": 4, **SIZES}
TEXT = {"kind": "text", "vocab": 300, "length": 6, **SIZES}
FIGURES = {"image": 1e-7}


def make(*names, tokenizer=None, checkpoint=None, workdir="runs/one", tmp_path=pathlib.Path()):
    """A model of these towers. checkpoint: that section of the config of its run; None if there was none."""
    towers = {"image": IMAGE, "text": TEXT}
    task, shapes = blank({"kind": "two_tower", "towers": {name: towers[name] for name in names}, "losses": []})
    arrays = {k: np.zeros(s, np.float32) for k, s in shapes.items()}
    facts = {}
    if checkpoint is not None:
        (tmp_path / "rows").write_text('{"step": 3, "eval/recall": 0.5}\n')
        train, optim = {"steps": 3, "batch": 2}, {"optimizer": {"kind": "adamw"}, "lr": 1e-3}
        config = {"train": train, "optim": optim, "data": {"source": {"kind": "emoji"}}, "checkpoint": checkpoint}
        facts = {"config": config, "step": 3, "workdir": pathlib.Path(workdir), "rows": tmp_path / "rows"}
    preprocessing = Preprocessing.of([], task["towers"]["image"]) if "image" in names else None
    return Model(task, arrays, tokenizer, preprocessing, facts)


def text_of(target, model, folder, figures=FIGURES):
    card.write_card(target, model, folder, figures)
    return (folder / "README.md").read_text()


@pytest.mark.parametrize(
    "target, names, held, use",
    [
        ("open_clip", ["image", "text"], ["image", "text"], "zero-shot-image-classification"),
        ("timm", ["image", "text"], ["image"], "image-feature-extraction"),
        ("onnx", ["image"], ["image"], "image-feature-extraction"),
        ("jax", ["text"], ["text"], "sentence-similarity"),
    ],
)
def test_it_is_of_the_towers_in_the_folder(target, names, held, use, tmp_path):
    model = make(*names)
    said = text_of(target, model, tmp_path)
    assert f"pipeline_tag: {use}\n" in said and ("Texts are cut to 6 tokens" in said) == ("text" in held)
    kept = [a for k, a in model.arrays.items() if target != "timm" or k.startswith("towers/image")]
    count = re.search(r"([\d,]+) parameters", said)[1]
    assert int(count.replace(",", "")) == sum(a.size for a in kept)
    assert (f"The {held[0]} tower alone" in said) == (len(held) == 1)


@pytest.mark.parametrize(
    "checkpoint, expected, limit",
    [
        (None, "Weights of another library", "those say who published the weights"),
        ({"init_from": None}, None, "on the data above and on nothing else"),
        (
            {"init_from": "runs/minilm", "init_only": ["towers/text/.*"]},
            "- started from `runs/minilm` (`towers/text/.*`)\n",
            "from weights that were trained elsewhere",
        ),
        (
            {"init_from": {"towers/image": "/home/me/clip/checkpoints#towers/image"}, "init_only": [".*"]},
            "- started from `clip/checkpoints#towers/image` (`towers/image`)\n",
            "from weights that were trained elsewhere",
        ),
    ],
)
def test_what_it_was_trained_on(checkpoint, expected, limit, tmp_path):
    said = text_of("open_clip", make("image", "text", checkpoint=checkpoint, tmp_path=tmp_path), tmp_path)
    assert limit in said and ("nothing else" in said) == (expected is None)
    assert expected is None or expected in said
    assert ("started from" in said) == bool(checkpoint and checkpoint["init_from"]) and "/home" not in said


@pytest.mark.parametrize("workdir, given", [("runs/a/one", "runs/a/one"), ("/home/me/one", "one")])
def test_the_command_of_the_metrics(workdir, given, tmp_path):
    model = make("image", "text", checkpoint={"init_from": None}, workdir=workdir, tmp_path=tmp_path)
    assert f"(`python -m bigcl.evaluate --workdir {given} --step 3`)" in text_of("open_clip", model, tmp_path)


def test_what_was_compared(tmp_path):
    trained = train_bpe(iter(["a cat on a mat"]), 300)
    trained.save(str(tmp_path / "tokenizer.json"))
    tokenizer = TokenizersJSON(str(tmp_path / "tokenizer.json"))
    with_one, without = make("image", "text", tokenizer=tokenizer), make("image", "text")
    said = "The same raw pictures and texts through open_clip's own preprocessing, tokenizer, model"
    assert said in text_of("open_clip", with_one, tmp_path)
    said = text_of("open_clip", without, tmp_path)
    assert (
        "raw pictures and token ids (there is no tokenizer in the folder) through open_clip's own preprocessing, model"
        in said
    )
    assert "The same raw pictures through timm's own preprocessing, model" in text_of("timm", with_one, tmp_path)

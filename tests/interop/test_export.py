"""Exported folders are the same model to the libraries they are for, and say so; what cannot leave is refused."""

import dataclasses
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from bigcl import export as command
from bigcl.checkpoint import Checkpoints
from bigcl.convert import read_model
from bigcl.interop import files, huggingface, open_clip, proof, timm
from bigcl.interop.model import Inexpressible, Model, Preprocessing, blank, load, save
from bigcl.pretrained import Pretrained
from tests.interop.models import CLIP, EMOJI, IMAGE, PADDED, PEERS, SIGLIP, TEXT, TEXTS, exported, make


def test_the_shape_of_a_picture_is_kept_by_naflex():
    """What counts as not resized, and what of a config becomes of it."""
    tower = {**IMAGE, "naflex": True}
    how = Preprocessing.of([{"kind": "naflex", "patch": 8, "tokens": 6, "method": "bicubic"}], tower)
    assert (how.mode, how.tokens, how.method, how.patch) == ("naflex", 6, "bicubic", 8)
    assert Preprocessing.of(how.transforms(), tower) == how
    wide, other = Image.new("RGB", (24, 16)), Image.new("RGB", (24, 20))
    assert how.keeps(wide) and not how.keeps(other)
    lengths = {"kind": "naflex", "patch": 8, "tokens": [2, 6, 4]}
    assert Preprocessing.of([lengths], tower) == dataclasses.replace(how, method="bilinear")  # outside of training
    assert Preprocessing.of([{"kind": "naflex", "patch": 8}], tower).tokens == 256
    batch = how([wide, other])
    assert batch["image"].shape == (2, 6, 192) and batch["image_shape"].tolist()[0] == [2, 3]


def test_each_library_reads_its_own_of_a_folder_with_both(tokenizer, tmp_path):
    """As Hub repositories hold the layouts of transformers and open_clip side by side."""
    model = make(CLIP, tokenizer)
    for form in (huggingface, open_clip):
        form.export(model, tmp_path)
    for source in ("transformers", "open_clip"):
        for path, array in read_model(source, tmp_path).arrays.items():
            np.testing.assert_array_equal(array, model.arrays[path], err_msg=path)
    assert Pretrained.open(tmp_path).identity["format"] == "open_clip"


@pytest.mark.parametrize("target", ["open_clip", "transformers", "onnx"])
@pytest.mark.parametrize(
    "change, message",
    [
        ({"normalize": False}, "task.normalize = False"),
        ({"scales": {"other": 10.0}}, "task.scales = {'other': 10.0}"),
        ({"losses": [{"kind": "infonce", "of": ["image", "text"], "scale": 10.0}]}, "task.losses[0].scale = 10.0"),
    ],
)
def test_another_temperature_is_refused(change, message, target, tokenizer, tmp_path):
    model = make(CLIP, tokenizer)
    task, shapes = blank({**model.task, **change})
    arrays = {k: model.arrays.get(k, np.zeros(s, np.float32)) for k, s in shapes.items()}
    with pytest.raises(Inexpressible) as error:
        exported(dataclasses.replace(model, task=task, arrays=arrays), target, tmp_path, verify=False)
    assert message in str(error.value)


@PEERS
@pytest.mark.parametrize(
    "towers, loss, change, target, kind",
    [
        (EMOJI, "infonce", {"registers": 1}, "open_clip", None),
        (EMOJI, "infonce", {"registers": 1}, "transformers", "vision-text-dual-encoder"),
        (EMOJI, "infonce", {}, "transformers", "vision-text-dual-encoder"),
        (CLIP, "infonce", {}, "open_clip", None),
        (CLIP, "sigmoid", {}, "open_clip", None),
        (CLIP, "infonce", {"patch_bias": True}, "transformers", "clip"),
        (SIGLIP, "sigmoid", {}, "transformers", "siglip"),
        (CLIP, "infonce", {}, "timm", None),
        (SIGLIP, "sigmoid", {"naflex": True}, "transformers", "siglip2"),
        (EMOJI, "infonce", {"qk_norm": True, "positions": "rotary", "gated": True}, "jax", None),
        (EMOJI, "infonce", {}, "onnx", None),
        (SIGLIP, "sigmoid", {}, "onnx", None),
        (EMOJI, "infonce", {"edge": 18}, "transformers", "vision-text-dual-encoder"),
        (CLIP, "infonce", {"edge": 18}, "timm", None),
        (CLIP, "infonce", {"edge": 18}, "onnx", None),
        (EMOJI, "infonce", {"edge": 18}, "jax", None),
        (PADDED, "infonce", {}, "transformers", "clip"),
    ],
)
@pytest.mark.slow
def test_the_target_agrees(towers, loss, change, target, kind, tokenizer, tmp_path):
    if target == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    model = make(towers, tokenizer, loss, "shortest", **change)
    figures = exported(model, target, tmp_path)
    assert proof.passed(figures) and {"image", "pixels"} <= set(figures)
    if target != "timm":
        assert figures["ids"] == 0 and figures["logits"] < 1e-4
    if kind is not None:
        assert files.read_json(tmp_path / "out" / "config.json")["model_type"] == kind
    card = (tmp_path / "out" / "README.md").read_text()
    assert "in float32: passed" in card and "largest difference" in card


def test_timm_is_needed_where_its_towers_are_alone(tokenizer, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name != "timm" else None)
    for target in ("transformers", "onnx"):
        proof.check_installed(target, make(SIGLIP, tokenizer, "sigmoid"))
        proof.check_installed(target, make(CLIP, tokenizer))
        with pytest.raises(ImportError, match=f"--to {target}: the proof needs timm"):
            proof.check_installed(target, make(EMOJI, tokenizer))


SNIPPET = """
import json, pathlib
import numpy as np
from PIL import Image

pictures = [Image.open(path) for path in sorted(pathlib.Path("pictures").glob("*.png"))]
pixels = np.stack([np.asarray(picture) for picture in pictures])
texts, ids = json.loads(pathlib.Path("texts.json").read_text()), np.load("ids.npy")
if "open_clip" in CODE or "transformers" in CODE:
    import torch

    ids = torch.from_numpy(ids)
exec(CODE)
if "arrays" in globals():
    np.savez("found.npz", **arrays)
else:
    found = logits if "logits" in globals() else embeddings
    np.savez("found.npz", found.detach().numpy() if hasattr(found, "detach") else found)
"""


@PEERS
@pytest.mark.slow
@pytest.mark.parametrize(
    "towers, loss, change, target, with_tokenizer",
    [
        (EMOJI, "infonce", {"registers": 1}, "open_clip", True),
        (CLIP, "infonce", {}, "open_clip", False),
        (EMOJI, "infonce", {}, "transformers", True),
        (CLIP, "infonce", {}, "transformers", True),
        (SIGLIP, "sigmoid", {}, "transformers", False),
        (SIGLIP, "sigmoid", {"naflex": True}, "transformers", True),
        (CLIP, "infonce", {}, "timm", True),
        (EMOJI, "infonce", {}, "jax", True),
        (EMOJI, "infonce", {}, "onnx", True),
        (SIGLIP, "sigmoid", {}, "safetensors", True),
    ],
)
def test_the_code_of_the_card_runs_as_it_stands(towers, loss, change, target, with_tokenizer, tokenizer, tmp_path):
    """Beside the folder, on inputs of the names that the card says, and gives what bigcl gives."""
    if target in ("jax", "onnx"):
        pytest.importorskip("flatbuffers" if target == "jax" else "onnxscript")
    model = make(towers, tokenizer, loss, **change)
    pictures = [proof.painting((16, 16), seed) for seed in range(len(TEXTS))]
    ids = model.tokenizer(TEXTS, 12)
    expected = model.encode({**model.preprocessing(pictures), "text": ids})
    model = model if with_tokenizer else dataclasses.replace(model, tokenizer=None)
    exported(model, target, tmp_path, verify=False)

    card = (tmp_path / "out" / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    said = set(re.findall(r"`(\w+)` are", card))
    assert said == {"timm": {"pictures"}, "jax": {"pixels"}, "onnx": {"pixels"}, "safetensors": set()}.get(
        target, {"pictures", "texts" if with_tokenizer else "ids"}
    )
    (tmp_path / "pictures").mkdir()
    for i, picture in enumerate(pictures):
        picture.save(tmp_path / "pictures" / f"{i:02}.png")
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS))
    np.save(tmp_path / "ids.npy", ids)
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", f"CODE = {code!r}\n{SNIPPET}"]
    subprocess.run(command, cwd=tmp_path, env=offline, check=True)

    with np.load(tmp_path / "found.npz") as found:
        if target == "safetensors":
            assert {k: found[k].tolist() for k in found.files} == {k: v.tolist() for k, v in model.arrays.items()}
            return
        wanted = expected["image"]
        if target in ("open_clip", "transformers"):
            wanted = np.exp(2.0) * wanted @ expected["text"].T + model.arrays.get("bias", 0)
        np.testing.assert_allclose(found["arr_0"], wanted, atol=1e-4)


@PEERS
@pytest.mark.slow
@pytest.mark.parametrize("harm", ["weights", "preprocessing", "tokenizer"])
def test_a_wrong_export_fails_and_stays(harm, tokenizer, tmp_path, monkeypatch):
    write = huggingface.export

    def export(model, out):
        write(model, out)
        if harm == "weights":
            tensors = files.read_tensors(out / "model.safetensors")
            tensors["text_model.encoder.layers.1.mlp.fc2.bias"][0] += 1e-2
            files.write_safetensors(tensors, out / "model.safetensors")
        elif harm == "preprocessing":
            config = files.read_json(out / "preprocessor_config.json")
            files.write_json({**config, "resample": 0}, out / "preprocessor_config.json")
        else:
            text = (out / "tokenizer.json").read_text()
            (out / "tokenizer.json").write_text(text.replace('"Lowercase"', '"NFC"'))

    monkeypatch.setattr(huggingface, "export", export)
    with pytest.raises(proof.Unproven, match="something else than bigcl"):
        exported(make(CLIP, tokenizer), "transformers", tmp_path)
    assert "in float32: FAILED" in (tmp_path / "out" / "README.md").read_text()
    assert (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize("name", ["image", "text"])
def test_a_tower_alone_leaves_as_stablehlo(name, tokenizer, tmp_path):
    pytest.importorskip("flatbuffers")
    both = make({**EMOJI, "text": {"post_norm": True, "causal": False, "pool": "mean", "pad_id": 0}}, tokenizer)
    task, shapes = blank({"kind": "two_tower", "towers": {name: both.task["towers"][name]}, "losses": []})
    arrays = {k: both.arrays[k] for k in shapes}
    model = Model(task, arrays, *((None, both.preprocessing) if name == "image" else (tokenizer, None)))
    figures = exported(model, "jax", tmp_path)
    assert proof.passed(figures)
    assert set(figures) == ({"image", "pixels", "resized"} if name == "image" else {"text", "ids"})


def test_plain_safetensors(tokenizer, tmp_path):
    model = make(SIGLIP, tokenizer, "sigmoid")
    figures = exported(model, "safetensors", tmp_path)
    assert set(figures) == set(model.arrays) and not any(figures.values())
    assert files.read_json(tmp_path / "out" / "config.json")["task"] == model.task
    assert "0 differ" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("target, form", [("open_clip", open_clip), ("transformers", huggingface), ("timm", timm)])
def test_without_proof_no_library_is_needed(target, form, tokenizer, tmp_path):
    assert exported(make(CLIP, tokenizer), target, tmp_path, verify=False) is None
    assert "Not checked (`--no-verify`)" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    "towers, loss, change, target",
    [
        (EMOJI, "infonce", {}, "transformers"),
        (EMOJI, "infonce", {"registers": 1}, "open_clip"),
        (CLIP, "infonce", {}, "transformers"),
        (CLIP, "sigmoid", {}, "open_clip"),
        (SIGLIP, "sigmoid", {}, "transformers"),
        (SIGLIP, "sigmoid", {"naflex": True}, "transformers"),
        (EMOJI, "infonce", {"qk_norm": True, "positions": "rotary"}, "safetensors"),
        (CLIP, "infonce", {}, "timm"),
        (CLIP, "infonce", {"edge": 18}, "transformers"),
        (CLIP, "infonce", {"edge": 18}, "timm"),
        (CLIP, "infonce", {"edge": 18}, "safetensors"),
        (PADDED, "infonce", {}, "transformers"),
    ],
)
def test_an_exported_folder_is_opened_for_use(towers, loss, change, target, tokenizer, tmp_path):
    """By its layout alone, with the preprocessing and tokenizer that it holds."""
    model = make(towers, tokenizer, loss, **change)
    exported(model, target, tmp_path, verify=False)
    opened = Pretrained.open(tmp_path / "out")
    pictures = [proof.painting((20, 28), seed) for seed in range(3)]
    examples = [{"image": np.asarray(p), "text": t} for p, t in zip(pictures, TEXTS, strict=False)]
    steps, prepared = opened.prepare(["image", "text"]), []
    for example in examples:
        for step in steps:
            example = step(example, np.random.default_rng(0))
        prepared.append(opened.reads(example))
    found = opened.encode({k: np.stack([example[k] for example in prepared]) for k in prepared[0]})
    expected = model.encode({**model.preprocessing(pictures), "text": tokenizer(TEXTS[:3], 12)})
    assert set(found) == ({"image"} if target == "timm" else {"image", "text"})
    for name, x in found.items():
        np.testing.assert_allclose(x, expected[name], atol=1e-5)


@pytest.mark.parametrize(
    "towers, loss, change, target",
    [
        (EMOJI, "infonce", {}, "transformers"),
        (EMOJI, "infonce", {"registers": 1}, "open_clip"),
        (EMOJI, "infonce", {"registers": 3}, "timm"),
        (CLIP, "infonce", {}, "transformers"),
        (CLIP, "infonce", {}, "open_clip"),
        (CLIP, "sigmoid", {}, "open_clip"),
        (CLIP, "infonce", {}, "timm"),
        (SIGLIP, "sigmoid", {}, "transformers"),
        (SIGLIP, "sigmoid", {}, "timm"),
        (SIGLIP, "sigmoid", {"naflex": True}, "transformers"),
        (SIGLIP, "sigmoid", {"qk_norm": True, "gated": True}, "safetensors"),
        (CLIP, "infonce", {"edge": 18}, "transformers"),
        (CLIP, "infonce", {"edge": 23}, "timm"),
        (CLIP, "infonce", {"edge": 18}, "safetensors"),
    ],
)
@pytest.mark.parametrize("mode", ["shortest", "squash"])
def test_what_left_and_came_back_leaves_the_same(towers, loss, change, target, mode, tokenizer, tmp_path):
    """Bit by bit the same tensors, the same config, the same preprocessing."""
    model = make(towers, tokenizer, loss, mode, **change)
    write, found = importlib.import_module(command.TARGETS[target]).export, []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        write(model, folder)
        found.append({path.name: path.read_bytes() for path in folder.iterdir()})
        model = read_model(target, folder)
    first, second = found
    assert first.keys() == second.keys()
    for name, content in first.items():
        if name.endswith(".safetensors"):
            mine, again = (files.read_tensors(tmp_path / side / name) for side in ("first", "second"))
            assert mine.keys() == again.keys()
            for key, value in mine.items():
                np.testing.assert_array_equal(again[key], value, err_msg=key)
        elif (name, target) != ("tokenizer.json", "open_clip"):  # to which open_clip's cleaning is added once more
            assert json.loads(second[name]) == json.loads(content), name


@PEERS
@pytest.mark.slow
def test_a_siglip_leaves_for_open_clip(tokenizer, tmp_path):
    """In a published size, since open_clip takes timm's towers by name: 88 million parameters."""
    sizes = {"image_size": 256, "patch": 32, "width": 768, "depth": 12, "heads": 12, "mlp_width": 3072}
    image = {"kind": "vit", **sizes, "pool": "map", "activation": "gelu_tanh"}
    text = {**TEXT, "vocab": tokenizer.vocab_size, **SIGLIP["text"], "embed_dim": 768, "activation": "gelu_tanh"}
    towers = {"image": image, "text": text}
    task, shapes = blank({"kind": "two_tower", "towers": towers, "losses": [{"kind": "sigmoid", "of": list(towers)}]})
    rng = np.random.default_rng(0)
    arrays = {k: rng.normal(scale=0.05, size=s).astype(np.float32) for k, s in shapes.items()}
    arrays |= {k: 1 + arrays[k] for k in arrays if k.endswith("/scale")}
    arrays |= {"log_scale": np.array(2.0, np.float32), "bias": np.array(-3.0, np.float32)}
    model = Model(task, arrays, tokenizer, Preprocessing(256, "squash"))
    figures = exported(model, "open_clip", tmp_path)
    assert proof.passed(figures) and {"image", "text", "logits", "pixels", "ids"} <= set(figures)
    config = files.read_json(tmp_path / "out" / "open_clip_config.json")
    assert config["model_cfg"]["vision_cfg"]["timm_model_name"] == "vit_base_patch32_siglip_256"
    assert config["preprocess_cfg"]["resize_mode"] == "squash"
    again = read_model("open_clip", tmp_path / "out")
    for path, array in arrays.items():
        np.testing.assert_array_equal(again.arrays[path], array, err_msg=path)
    (tmp_path / "back").mkdir()
    open_clip.export(again, tmp_path / "back")
    left, back = (files.read_tensors(tmp_path / name / "open_clip_model.safetensors") for name in ("out", "back"))
    assert left.keys() == back.keys() and all(np.array_equal(back[k], v) for k, v in left.items())


@pytest.mark.parametrize(
    "target, named",
    [
        ("timm", "torch, torchvision, timm"),
        ("transformers", "torch, torchvision, transformers"),
        ("onnx", "torch, transformers, onnxscript, onnxruntime, tokenizers"),
    ],
)
def test_a_missing_library_is_named(target, named, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=rf"needs {named}: pip install \"bigcl\[export\]\", or .*--no-v"):
        exported(make(CLIP, tokenizer), target, tmp_path)
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_over(tokenizer, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    with pytest.raises(FileExistsError, match="is not empty"):
        exported(make(CLIP, tokenizer), "safetensors", tmp_path)


@pytest.mark.parametrize(
    "form, towers, loss, change, message",
    [
        (open_clip, EMOJI, "infonce", {}, "registers = 0: open_clip has mean pooling beside a class token only"),
        (open_clip, CLIP, "infonce", {"qk_norm": True}, "image.qk_norm = True: open_clip can express False only"),
        (open_clip, CLIP, "infonce", {"activation": "gelu"}, "quick_gelu in both towers or in none"),
        (
            open_clip,
            CLIP,
            "infonce",
            {"edge": 18},
            "resize to 18 before a crop of 16: open_clip crops what it has resized",
        ),
        (open_clip, CLIP, "infonce", {"embed_dim": None}, "embed_dim: open_clip always projects the image"),
        (open_clip, SIGLIP, "sigmoid", {}, "published sizes only"),
        (open_clip, SIGLIP, "sigmoid", {"registers": 2}, "image.registers = 2: open_clip's SigLIP can express 0 only"),
        (open_clip, SIGLIP, "sigmoid", {"pre_norm": True}, "image.pre_norm = True: open_clip's SigLIP can express"),
        (huggingface, CLIP, "sigmoid", {}, "task.losses: a sigmoid loss has a bias"),
        (huggingface, CLIP, "infonce", {"positions": "rotary"}, "positions = 'rotary'"),
        (huggingface, EMOJI, "infonce", {"gated": True}, "gated = True"),
        (timm, CLIP, "infonce", {"norm_eps": 1e-3}, "norm_eps = 0.001"),
    ],
)
def test_what_a_target_cannot_express_is_named(form, towers, loss, change, message, tokenizer, tmp_path):
    with pytest.raises(Inexpressible) as error:
        form.export(make(towers, tokenizer, loss, **change), tmp_path)
    assert message in str(error.value)
    assert not list(pathlib.Path(tmp_path).iterdir())


def test_a_saved_model_starts_a_run(tokenizer, tmp_path):
    """Its checkpoints are what `checkpoint.init_from` names; a tower is taken by a pattern."""
    model = make(CLIP, tokenizer)
    save(model, tmp_path / "run")
    fresh = {k: jnp.zeros(v.shape) for k, v in model.arrays.items()}
    found = Checkpoints(tmp_path / "run" / "checkpoints").restore_params(fresh, ["towers/image/.*"])
    for path, array in model.arrays.items():
        expected = array if path.startswith("towers/image/") else 0 * array
        np.testing.assert_array_equal(found[path], expected, err_msg=path)


def test_a_saved_model_is_read_back(tokenizer, tmp_path):
    model = make(SIGLIP, tokenizer, "sigmoid", "shortest")
    save(model, tmp_path / "run")
    again = load(tmp_path / "run")
    assert json.dumps(again.task, sort_keys=True) == json.dumps(model.task, sort_keys=True)
    assert (
        again.preprocessing
        == model.preprocessing
        == Preprocessing(16, "shortest", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    )
    for path, array in model.arrays.items():
        np.testing.assert_array_equal(again.arrays[path], array)

"""What leaves embeds pictures and texts as its run does, or says what it leaves behind."""

import dataclasses
import json

import numpy as np
import pytest

from bigcl import export as command
from bigcl.data.tokenizers import TokenizersJSON
from bigcl.interop import files, huggingface, proof
from bigcl.interop.model import Model, Preprocessing, blank, load, save
from bigcl.pretrained import Pretrained
from tests.interop.models import CLIP, EMOJI, IMAGE, SIGLIP, TEXT, TEXTS, exported, make


@pytest.mark.parametrize("clean", ["whitespace", "lower", "canonicalize"])
def test_what_is_done_to_a_text_first_leaves_within_the_tokenizer(clean, tokenizer, tmp_path):
    save(make(CLIP, tokenizer), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["tokenizer"]["clean"] = clean
    (tmp_path / "config.json").write_text(json.dumps(config))
    load(tmp_path).tokenizer.save(tmp_path / "left.json")
    left, texts = TokenizersJSON(str(tmp_path / "left.json")), ["The_Cat,\t sat!!  on\na [mat]~", *TEXTS]
    expected = TokenizersJSON(str(tmp_path / "tokenizer.json"), clean=clean)(texts, 24)
    np.testing.assert_array_equal(left(texts, 24), expected)
    assert (expected != tokenizer(texts, 24)).any()


def prepared_by(tokenizer, folder, *transforms):
    """A saved model whose run prepares texts so, for an evaluation whose pictures it does not touch."""
    save(make(EMOJI, tokenizer), folder)
    config = json.loads((folder / "config.json").read_text())
    evaluation = {"kind": "retrieval", "transforms": [*transforms, {"kind": "tokenize", "length": 12}]}
    files.write_json(
        {**config, "evals": {"a": {"kind": "robustness", "evaluator": evaluation}}}, folder / "config.json"
    )
    return load(folder)


@pytest.mark.parametrize(
    "transforms",
    [
        [{"kind": "clean_text", "mode": "canonicalize"}],
        [
            {"kind": "format_text", "template": "a {{photo}} of {text}"},
            {"kind": "clean_text", "mode": "lower"},
        ],
        [{"kind": "clean_text"}, {"kind": "format_text", "template": "the {text}"}],
    ],
)
def test_transforms_of_texts_leave_within_the_tokenizer(transforms, tokenizer, tmp_path, capsys):
    """As the run prepares texts, which the tokenizer alone would not."""
    model = prepared_by(tokenizer, tmp_path, *transforms)
    texts = [*TEXTS[:4], "The_Cat,\t sat!!  on\na [mat]~"]
    ids = model.tokenizer(texts, 12)
    np.testing.assert_array_equal(ids, proof.prepared(model, [], texts)["text"])
    assert (ids != tokenizer(texts, 12)).any() and "stay behind" not in capsys.readouterr().out


def test_transforms_of_texts_that_no_tokenizer_holds_are_named(tokenizer, tmp_path, capsys):
    """What needs more than a text does nothing to a text alone; the rest shows in the proof."""
    group, caption = ({"kind": "format_text", "template": f"{{text}}, {end}"} for end in ("{group}", "the log"))
    model = prepared_by(tokenizer, tmp_path, group, caption)
    assert f"stay behind: {group}, {caption}" in capsys.readouterr().out
    ids = proof.prepared(model, [], TEXTS[:4])["text"]
    assert (ids != model.tokenizer(TEXTS[:4], 12)).any()


def test_a_tokenizer_that_is_no_file_of_tokenizers_stays_behind_and_that_is_said(tokenizer, tmp_path, capsys):
    save(dataclasses.replace(make(CLIP, tokenizer), tokenizer=None), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"tokenizer": {"kind": "sentencepiece", "path": "x"}}))
    assert load(tmp_path).tokenizer is None and "(sentencepiece) stays behind" in capsys.readouterr().out
    del config["task"]["towers"]["text"]["vocab"]  # which its run left to the tokenizer
    (tmp_path / "config.json").write_text(json.dumps(config | {"tokenizer": {"kind": "sentencepiece", "path": "x"}}))
    assert load(tmp_path).task["towers"]["text"]["vocab"] == tokenizer.vocab_size


def test_a_choice_among_texts_is_no_loss(tokenizer, tmp_path, capsys):
    """Of a text alone there is none."""
    prepared_by(tokenizer, tmp_path, {"kind": "choose_text", "key": "texts"})
    assert "stay behind" not in capsys.readouterr().out


def text_embeddings(opened):
    """Of TEXTS, as an opened folder prepares them."""
    (*steps,) = opened.prepare(["text"])
    found = []
    for example in ({"text": text} for text in TEXTS):
        for step in steps:
            example = step(example, np.random.default_rng(0))
        found.append(example["text"])
    return opened.encode({"text": np.stack(found)})["text"]


@pytest.mark.parametrize(
    "towers, length",
    [
        (SIGLIP, 8),
        ({**SIGLIP, "text": {**SIGLIP["text"], "positions": "rotary"}}, 8),
        ({**EMOJI, "text": {**EMOJI["text"], "causal": False, "pool": "mean"}}, 12),
        (EMOJI, 12),
    ],
)
def test_texts_leave_as_long_as_the_run_makes_them(towers, length, tokenizer, tmp_path, capsys):
    """Where a tower sees padding, or the last token is pooled, others would be another model."""
    save(make(towers, tokenizer), tmp_path / "run")
    config = files.read_json(tmp_path / "run" / "config.json")
    evaluation = {"kind": "retrieval", "transforms": [{"kind": "tokenize", "length": 8}]}
    files.write_json({**config, "evals": {"a": evaluation}}, tmp_path / "run" / "config.json")
    command.export(tmp_path / "run", "safetensors", tmp_path / "out", verify=False)
    said = capsys.readouterr().out
    assert ("8 of 12 tokens leave" in said) == (length == 8)
    assert f"Texts are cut to {length} tokens" in (tmp_path / "out" / "README.md").read_text()
    run, left = (text_embeddings(Pretrained.open(tmp_path / name)) for name in ("run", "out"))
    np.testing.assert_allclose(left, run, atol=1e-6)


def test_experiments_in_computing_stay_behind(tokenizer, tmp_path, capsys):
    """Both sides of the proof compute as usual."""
    usual = make(CLIP, tokenizer)
    eight = {name: {**part, "matmul": "int8"} for name, part in CLIP.items()}
    eight["image"]["attention"] = "cudnn"
    save(make(eight, tokenizer), tmp_path)
    model = load(tmp_path)
    said = capsys.readouterr().out
    for name in ("image.matmul = 'int8'", "image.attention = 'cudnn'", "text.matmul = 'int8'"):
        assert f"task.towers.{name}" in said
    assert model.task == usual.task and not any("towers" in x and "plain" in x for x in said.splitlines())
    assert huggingface.expressed(model)[0]["model_type"] == "clip"
    batch = {"text": tokenizer(TEXTS, 12)}
    np.testing.assert_array_equal(model.encode(batch)["text"], usual.encode(batch)["text"])


TEXT_TOWERS = {
    "gru": {"kind": "gru", "length": 12, "width": 8, "embed_dim": 20, "vocab": 300},
    "mlp": {"kind": "mlp", "inputs": 6, "widths": [20]},
    "shared": "other",
}


@pytest.mark.parametrize("kind", TEXT_TOWERS)
def test_a_text_tower_of_any_kind_leaves_as_safetensors(kind, tokenizer, tmp_path):
    image, other = {**IMAGE, **EMOJI["image"]}, {**TEXT, "vocab": 300, **EMOJI["text"]}
    towers = {"image": image, "text": TEXT_TOWERS[kind], **({"other": other} if kind == "shared" else {})}
    task, shapes = blank(
        {"kind": "two_tower", "towers": towers, "losses": [{"kind": "infonce", "of": ["image", "text"]}]}
    )
    model = Model(task, {k: np.zeros(s, np.float32) for k, s in shapes.items()}, tokenizer, Preprocessing(16))
    exported(model, "safetensors", tmp_path)
    card = (tmp_path / "out" / "README.md").read_text()
    assert ("Texts are cut to 12 tokens" in card) == (kind != "mlp")
    tokenizing = [part for part in Pretrained.open(tmp_path / "out").transforms if part["kind"] == "tokenize"]
    assert tokenizing == ([] if kind == "mlp" else [{"kind": "tokenize", "length": 12}])

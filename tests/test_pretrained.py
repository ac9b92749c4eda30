"""Weights opened for use are those that a run evaluates, prepared as it prepares them."""

import numpy as np
import pytest

from bigcl.config import plain
from bigcl.evaluate import restore
from bigcl.preparation import applicable
from bigcl.pretrained import Pretrained, preparation
from bigcl.registry import ConfigError
from bigcl.train import run
from tests.faults.tiny import get_config

IMAGE = {"kind": "vit", "image_size": 8, "patch": 4, "mean": [0.4] * 3, "std": [0.2] * 3}
TEXT = {"kind": "text", "vocab": 30, "length": 6}
SQUASH = [{"kind": "decode_image"}, {"kind": "resize", "method": "bicubic", "exact": True, "size": [8, 8]}]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    config = plain(get_config())
    config["train"].update(steps=4)
    config["checkpoint"]["every"] = 2
    folder = tmp_path_factory.mktemp("run")
    run(config, folder)
    return folder


@pytest.mark.parametrize("step", [2, 4])
def test_a_run_is_opened_as_it_is_evaluated(workdir, step):
    """With its moving average; no data of the run is read."""
    model = Pretrained.open(workdir / "checkpoints" / str(step))
    experiment, state = restore(workdir, step)
    batch = {k: v for k, v in experiment.loader.host_batch(0).items() if k in model.inputs}
    assert set(batch) == {"image", "text"} and model.identity["step"] == step
    expected = experiment.encoder(state)(batch)
    for name, x in model.encode(batch).items():
        np.testing.assert_allclose(x, expected[name], atol=1e-6)
    assert model.encode.scale == pytest.approx(experiment.encoder(state).scale)


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="give the folder of a run or of an export"):
        Pretrained.open(tmp_path)


def test_an_input_that_the_model_lacks(workdir):
    with pytest.raises(ConfigError, match="an example has sound; the model reads image, text"):
        Pretrained.open(workdir).prepare(["sound"])


def config(transforms, towers, evaluation=None):
    found = {"task": {"towers": towers}, "data": {"transforms": transforms}, "tokenizer": {"kind": "clip"}}
    return found if evaluation is None else found | {"evals": {"a": {"transforms": evaluation}}}


def test_preparation():
    """Nothing random, and every picture in the size of the tower; what an evaluation says goes first."""
    shift, tokenize = {"kind": "shift", "pixels": 3}, {"kind": "tokenize", "length": 4}
    both = {"image": IMAGE, "text": TEXT}
    default = {"kind": "tokenize", "length": 6}
    assert preparation(config([{"kind": "decode_image"}, shift, tokenize], both)) == [*SQUASH, tokenize]
    assert preparation(config([{"kind": "decode_image"}], both)) == [*SQUASH, default]
    crop = [{"kind": "random_resized_crop", "size": 8}]
    assert [p["kind"] for p in preparation(config(crop, both))] == ["decode_image", "resize", "center_crop", "tokenize"]
    assert preparation(config([], {"text": TEXT})) == [default]
    resize = [{"kind": "resize", "size": 12}, {"kind": "center_crop", "size": 8}]
    assert preparation(config(crop, both, resize)) == [*resize, default]
    for how in ("center_crop", "random_crop"):
        found = preparation(config([resize[0], {"kind": how, "size": 8}], both))
        assert found == [SQUASH[0], {**SQUASH[1], "size": 12}, resize[1], default]
    assert preparation(config([shift], {"image": {"kind": "mlp"}})) == [shift]
    naflex = [{"kind": "naflex", "patch": 4, "tokens": 9, "method": "bilinear"}]
    assert preparation(config([shift, *naflex], {"image": {**IMAGE, "naflex": True}})) == naflex


def test_each_input_is_prepared_by_whoever_says_how():
    """An evaluation that makes ids, else the training without what is random, else the tower's length."""
    both, shaped = {"image": IMAGE, "text": TEXT}, [{"kind": "resize", "size": [8, 8]}]
    clean, tokenize = {"kind": "clean_text", "mode": "lower"}, {"kind": "tokenize", "length": 4}
    caption = {"kind": "format_text", "template": "a photo of {text}"}
    drop, sometimes = {"kind": "word_dropout", "rate": 0.1}, {**caption, "probability": 0.1}
    trained = [{"kind": "random_resized_crop", "size": 8}, caption, sometimes, clean, drop, tokenize]
    assert preparation(config(trained, both, shaped)) == [*shaped, caption, clean, tokenize]
    longer = [{"kind": "resize", "size": [8, 8]}, clean, {"kind": "tokenize", "length": 6}]
    found = config(trained, both, shaped)
    found["evals"] = {
        "pictures": {"transforms": shaped},
        "both": {"kind": "robustness", "evaluator": {"kind": "retrieval", "transforms": longer}},
    }
    assert preparation(found) == [*shaped, *longer[1:]]
    assert preparation(config([clean, tokenize], {"text": TEXT}, [])) == [clean, tokenize]
    sound, noise = [{"kind": "log_mel"}, tokenize], {"kind": "noise", "deviation": 0.1, "keys": ["audio"]}
    towers = {"audio": {"kind": "token_mlp"}, "text": TEXT}
    assert preparation(config(sound, towers, [{"kind": "log_mel"}])) == sound
    assert preparation(config([noise, *sound], towers, [tokenize])) == sound[::-1]
    twice = {"first": TEXT, "second": "first"}
    ids = [{"kind": "tokenize", "length": 4, "key": "first"}, {"kind": "tokenize", "length": 6, "key": "second"}]
    assert preparation(config(ids[:1], twice)) == ids


def test_a_transform_whose_fields_are_missing_is_left_out(workdir):
    """As for a lone text, where those of the data have more."""
    model = Pretrained.open(workdir)
    caption = {"kind": "format_text", "template": "{text}, {group}"}
    keep = {"kind": "keep", "keys": {"text": "text", "image": "picture"}}
    assert applicable([caption, keep], ["text"]) == [{"kind": "keep", "keys": {"text": "text"}}]
    assert applicable([caption], ["text", "group"]) == [caption]
    model.transforms = [{"kind": "choose_text"}, caption]
    example = {"text": "one two"}
    for step in model.prepare(["text"]):
        example = step(example, np.random.default_rng(0))
    assert example == {"text": "one two"}

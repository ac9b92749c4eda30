"""Arguments in a config's path, plain data, differences between configs."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from bigcl import registry
from bigcl.config import differences, overridable, parse_arg, plain, save, without_defaults
from bigcl.experiment import Experiment
from bigcl.registry import ConfigError

DEFAULTS = {"size": "B/16", "batch": 1024, "lr": 1e-3, "smoke": False, "flip": True}
VALUES = st.fixed_dictionaries(
    {},
    optional={
        "size": st.text(st.characters(exclude_characters=",", exclude_categories=["Cs"]), max_size=8),
        "batch": st.integers(),
        "lr": st.floats(allow_nan=False),
        "smoke": st.booleans(),
        "flip": st.booleans(),
    },
)


@given(VALUES)
def test_arguments_take_the_type_of_their_default(values: dict[str, Any]):
    arg = ",".join(f"{k}={v}" for k, v in values.items())
    found = parse_arg(arg, **DEFAULTS).to_dict()
    assert found == DEFAULTS | values
    assert {k: type(v) for k, v in found.items()} == {k: type(v) for k, v in DEFAULTS.items()}


@given(st.text(), st.text())
def test_whatever_is_written_is_parsed_or_a_config_error(key: str, value: str):
    for arg in (key, f"{key}={value}", f"batch={value}", f"smoke={value}", f"lr={value}"):
        try:
            found = parse_arg(arg, **DEFAULTS)
        except ConfigError as error:
            assert "config argument" in str(error)
        else:
            assert set(found) == set(DEFAULTS)


def test_a_bare_word_is_true():
    assert parse_arg("smoke", **DEFAULTS).smoke is True
    assert parse_arg("flip=0,smoke=TRUE", **DEFAULTS).to_dict() == DEFAULTS | {"flip": False, "smoke": True}
    assert parse_arg("size=a=b", **DEFAULTS).size == "a=b"
    assert parse_arg(None, **DEFAULTS).to_dict() == parse_arg("", **DEFAULTS).to_dict() == DEFAULTS


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("bach=2", "config argument 'bach': unknown; did you mean 'batch'?"),
        ("smoke,xyz", "config argument 'xyz': unknown; known: batch, flip, lr, size, smoke"),
        ("batch=many", "config argument 'batch': expected int, got 'many'"),
        ("batch=1.5", "config argument 'batch': expected int, got '1.5'"),
        ("batch", "config argument 'batch': expected int"),
        ("lr=fast", "config argument 'lr': expected float, got 'fast'"),
        ("smoke=yes", "config argument 'smoke': expected true or false, got 'yes'"),
    ],
)
def test_errors_name_the_argument(arg, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_arg(arg, **DEFAULTS)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(PLAIN)
def test_plain_data_stays_as_it_is_and_survives_json(value: Any):
    assert plain(value) == value
    assert json.loads(json.dumps(plain(value))) == value
    assert differences(value, plain(value)) == []


def test_plain_unwraps_configs_and_tuples():
    config = ConfigDict({"a": {"b": (1, (2.0, None))}, "c": [{"d": "x"}]})
    found = plain(config)
    assert found == {"a": {"b": [1, [2.0, None]]}, "c": [{"d": "x"}]}
    assert type(found) is type(found["a"]) is type(found["c"][0]) is dict


@pytest.mark.parametrize("value", [len, {"a": {1, 2}}, [b"bytes"], {"a": [object()]}])
def test_what_is_not_plain_is_an_error(value):
    with pytest.raises(ConfigError, match="is not plain data"):
        plain(value)


def test_saved_configs_can_be_read_again(tmp_path):
    config = {"a": {"b": [1, None, "日本"]}, "c": 1e-3}
    save(config, tmp_path / "config.json")
    text = (tmp_path / "config.json").read_text()
    assert json.loads(text) == config and "日本" in text


def test_differences_name_the_key():
    old = {"a": {"b": 1, "gone": 2}, "c": [1, 2], "same": {"x": None}}
    new = {"a": {"b": 3, "new": 4}, "c": [1, 2, 3], "same": {"x": None}}
    assert differences(old, new) == [
        "a.b: 1 -> 3",
        "a.gone: 2 -> '(absent)'",
        "a.new: '(absent)' -> 4",
        "c: [1, 2] -> [1, 2, 3]",
    ]


def experiment() -> dict[str, Any]:
    """A config that is whole."""
    return {
        "seed": 0,
        "train": {"steps": 1, "batch": 8},
        "data": {"source": {"kind": "emoji"}, "transforms": [{"kind": "decode_image"}], "workers": 0},
        "task": {"kind": "two_tower", "towers": {"a": {"kind": "mlp", "inputs": 2, "widths": [2]}, "b": "a"}},
        "optim": {"lr": 1e-3},
        "mesh": {"data": -1},
    }


def changed(path: str, value: Any) -> dict[str, Any]:
    """The config with another value at a path."""
    config = experiment()
    *folders, key = path.split("/")
    inner = config
    for folder in folders:
        inner = inner[folder]
    inner[key] = value
    return config


def test_resolving_fills_in_the_defaults_of_every_part():
    resolved = Experiment.resolve(experiment())
    assert resolved["train"] | {"steps": 1, "batch": 8, "log_every": 10} == resolved["train"]
    assert resolved["data"]["transforms"][0].keys() > {"kind"}
    assert resolved["task"]["towers"] == {
        "a": {"kind": "mlp", "inputs": 2, "widths": [2], "activation": "gelu"},
        "b": "a",
    }
    assert resolved["mesh"]["fsdp"] == 1 and resolved["optim"]["optimizer"].keys() > {"kind"}
    assert Experiment.resolve(resolved) == resolved == json.loads(json.dumps(resolved))


def test_flags_change_resolved_values_and_take_a_new_kind_without_old_defaults():
    original = experiment()
    resolved = Experiment.resolve(original)
    config = overridable(resolved)
    config.optim.optimizer.kind = "lion"
    config.train.ema = 0.99  # None by default
    config.seed = 3
    changed = without_defaults(plain(config), resolved, original)
    assert changed["optim"] == {"lr": 1e-3, "optimizer": {"kind": "lion"}}
    assert (changed["seed"], changed["train"]) == (3, original["train"] | {"ema": 0.99})
    lion = Experiment.resolve(changed)["optim"]["optimizer"]
    assert lion["kind"] == "lion" and lion.keys() != resolved["optim"]["optimizer"].keys()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("trian", {}, "trian: unknown key; did you mean 'train'?"),
        ("seed", "zero", "seed: expected int, got 'zero'"),
        ("train/step", 3, "train.step: unknown key; did you mean 'steps'?"),
        ("train/dtype", "float16", "train.dtype: expected Literal"),
        ("train", {"batch": 8}, "train: missing key 'steps'"),
        ("data/source", {"kind": "emojis"}, "data.source: unknown source 'emojis'; did you mean 'emoji'?"),
        (
            "data/transforms",
            [{"kind": "decode_images"}],
            "data.transforms[0]: unknown transform 'decode_images'; did you mean",
        ),
        ("data/worker", 1, "data.worker: unknown key; did you mean 'workers'?"),
        ("task/towers/a/inputs", "two", "task.towers.a.inputs: expected int, got 'two'"),
        ("task/towers/a/widhts", [2], "task.towers.a.widhts: unknown key; did you mean 'widths'?"),
        ("task/losses", [{"kind": "info_nce"}], "task.losses[0]: unknown loss 'info_nce'; did you mean 'infonce'?"),
        (
            "task/losses",
            [{"kind": "infonce", "wieght": 2.0}],
            "task.losses[0].wieght: unknown key; did you mean 'weight'?",
        ),
        ("optim/learning_rate", 1.0, "optim.learning_rate: unknown key"),
        ("mesh/fdsp", 2, "mesh.fdsp: unknown key; did you mean 'fsdp'?"),
        ("evals", {"r": {"kind": "retreival"}}, "evals.r: unknown evaluator 'retreival'; did you mean 'retrieval'?"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_wrong_key_anywhere_is_named_with_its_path(path, value, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        Experiment.resolve(changed(path, value))


def test_configs_are_checked_before_any_device_is_touched(monkeypatch):
    def touched(*_: Any, **__: Any) -> None:
        raise AssertionError("a device was touched")

    for name in ("devices", "device_count", "local_devices"):
        monkeypatch.setattr(f"jax.{name}", touched)
    Experiment.resolve(experiment())
    with pytest.raises(ConfigError):
        Experiment.resolve(changed("mesh/fdsp", 2))
    assert registry.REGISTRIES["source"]

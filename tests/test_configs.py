"""Every config: its docstring, its resolved values as golden text, and its smoke form trained from end to end."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bigcl import registry, stages
from bigcl.config import check_given, parse_arg, parse_variant, plain
from bigcl.divergence import Diverged
from bigcl.experiment import Experiment
from bigcl.log import read_rows
from bigcl.registry import ConfigError
from bigcl.train import run

ROOT = pathlib.Path(__file__).parent.parent
CONFIGS = sorted(
    p for p in (ROOT / "configs").glob("**/*.py") if p.stem not in ("base", "__init__") and p.parent.stem != "evals"
)
GOLDEN = ROOT / "tests" / "golden_configs"
IDS = [str(p.relative_to(ROOT / "configs").with_suffix("")) for p in CONFIGS]


def load(path: pathlib.Path):
    """A config file as a module, the way the command loads it."""
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def flat(value, where="") -> list[str]:
    """A config as lines `path = value`, so that a changed default shows as one line of a diff."""
    if isinstance(value, dict) and value:
        return [line for k, v in value.items() for line in flat(v, f"{where}.{k}" if where else k)]
    if isinstance(value, list) and any(isinstance(v, dict) for v in value):
        return [line for i, v in enumerate(value) for line in flat(v, f"{where}[{i}]")]
    return [f"{where} = {value!r}"]


@pytest.mark.parametrize("path", CONFIGS, ids=IDS)
def test_says_how_it_is_run(path):
    assert f"python -m bigcl.train --config {path.relative_to(ROOT)}" in load(path).__doc__
    assert "smoke" in load(path).get_config.__doc__


@pytest.mark.parametrize("path", CONFIGS, ids=IDS)
def test_resolves_to_its_golden_text(path):
    """`UPDATE_GOLDEN=1 pytest tests/test_configs.py` accepts a change."""
    golden = GOLDEN / path.relative_to(ROOT / "configs").with_suffix(".txt")
    text = "\n".join(flat(stages.resolved(plain(load(path).get_config())))) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_text(text)
    assert golden.read_text() == text, (
        "a resolved config changed; if that is meant: UPDATE_GOLDEN=1 pytest tests/test_configs.py"
    )


@pytest.mark.parametrize("path", CONFIGS, ids=IDS)
def test_smoke_form_trains(path, tmp_path, capsys):
    config = plain(load(path).get_config("smoke"))
    run(config, tmp_path)
    for name, stage in config.get("stages", {".": config}).items():
        assert read_rows(tmp_path / name / "metrics.jsonl")[-1]["step"] == stage["train"]["steps"]
    run(config, tmp_path)
    assert "is finished" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["negclip_aro", "visualness", "teminal", "m3col"])
def test_fine_tuning_asks_for_what_it_starts_from(name):
    config = load(ROOT / "configs" / "papers" / f"{name}.py").get_config("paper")
    with pytest.raises(ConfigError, match="give init="):
        check_given(plain(config))
    given = load(ROOT / "configs" / "papers" / f"{name}.py").get_config("paper,init=runs/clip")
    assert given.checkpoint.init_from == "runs/clip"


RECIPES = [p for p in CONFIGS if p.parent.stem == "papers"]
EVERY_RECIPE = pytest.mark.parametrize("path", RECIPES, ids=[p.stem for p in RECIPES])


@EVERY_RECIPE
def test_every_form_of_a_recipe_resolves(path, monkeypatch):
    forms, module = [], load(path)

    def noted(arg, *variants, **defaults):
        forms.extend(variants)
        return parse_variant(arg, *variants, **defaults)

    monkeypatch.setattr("configs.papers.base.parse_variant", noted)
    module.get_config()
    monkeypatch.undo()
    assert {"method", "baseline", "paper"} <= set(forms)
    for form in forms:
        full, small = (stages.resolved(plain(module.get_config(arg))) for arg in (form, f"{form},smoke"))
        for name, stage in small.get("stages", {"": small}).items():
            whole = full["stages"][name] if name else full
            assert stage["train"]["steps"] <= 4 or stage == whole  # a form of one step has no smaller one


@EVERY_RECIPE
def test_the_published_form_of_a_recipe_has_a_step(path):
    """Of its smoke form, traced: towers, heads and losses fit together."""
    config = plain(load(path).get_config("paper,smoke"))
    for stage in config.get("stages", {"": config}).values():
        experiment = Experiment(**stage)
        with jax.set_mesh(experiment.mesh):
            state, metrics = jax.eval_shape(experiment.step(), experiment.state_shapes, experiment.batch_shapes())
        assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, experiment.state_shapes)
        assert metrics["loss"].shape == ()


@pytest.mark.parametrize("name", ["align", "just_ask", "m3col", "one_to_k", "symile", "teminal"])
def test_published_text_towers_do_not_read_padding(name):
    """As BERT and its kind; weights of theirs would else be another function."""
    task = load(ROOT / "configs" / "papers" / f"{name}.py").get_config("paper,smoke").task.to_dict()
    built = registry.build("task", task, batch_size=16, steps=4, rngs=nnx.Rngs(0))
    towers = {
        k: built.towers[k] for k, part in task["towers"].items() if not isinstance(part, str) and "pad_id" in part
    }
    assert towers
    for key, tower in towers.items():
        words = np.full((2, tower.length), tower.pad_id, np.int32)
        words[:, :4] = np.random.default_rng(0).integers(2, 90, (2, 4))
        z, short = (tower(jnp.asarray(x)).embedding for x in (words, words[:, :5]))
        np.testing.assert_allclose(z, short, atol=1e-5, err_msg=key)


@EVERY_RECIPE
def test_the_published_form_of_a_recipe_asks_for_data(path):
    config = plain(load(path).get_config("paper"))
    with pytest.raises(ConfigError, match=r"give data=FOLDER"):
        check_given(config)


def test_unknown_argument_names_the_nearest():
    with pytest.raises(ConfigError, match="'smok': unknown; did you mean 'smoke'"):
        load(ROOT / "configs" / "emoji.py").get_config("smok")


def test_arguments_reach_the_config():
    config = load(ROOT / "configs" / "siglip.py").get_config("size=L/16,batch=1024")
    assert (config.task.towers.image.variant, config.train.batch, config.task.towers.text.variant) == (
        "L/16",
        1024,
        "SigLIP-L",
    )
    assert parse_arg("a=2", a=1).a == 2


def test_mistakes_are_found_before_a_device_is_touched():
    """In a process of its own, since the tests have long touched theirs."""
    program = """
import runpy
from jax._src import xla_bridge
from bigcl.config import plain
from bigcl.experiment import Experiment
from bigcl.divergence import Diverged
config = plain(runpy.run_path("configs/siglip.py")["get_config"]())
Experiment.resolve(config)
for key, change in CHANGES.items():
    broken = {**config, key: {**config.get(key, {}), **change}}
    try:
        Experiment.resolve(broken)
    except ValueError as error:
        print(error)
assert not xla_bridge.backends_are_initialized()
"""
    changes = {
        "optim": {"freeze": ["towers/imgae/.*"]},
        "mesh": {"rules": [["towers/image/.*/qvk", "replicate"], [".*", "fsdp"]]},
        "train": {"stepz": 3},
        "checkpoint": {"init_from": "x", "init_only": ["nothing"]},
    }
    result = subprocess.run(
        [sys.executable, "-c", program.replace("CHANGES", repr(changes))], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("optim.freeze: pattern 'towers/imgae/.*' matches no parameter; the nearest is")
    assert lines[1].startswith("mesh.rules: pattern 'towers/image/.*/qvk' matches no parameter; the nearest is")
    assert lines[2] == "config.train.stepz: unknown key; did you mean 'steps'?"
    assert lines[3].startswith("checkpoint.init_only: pattern 'nothing' matches no parameter")


def test_a_run_that_diverges_stops_and_keeps_its_last_state(tmp_path):
    config = plain(load(ROOT / "configs" / "siglip.py").get_config("smoke"))
    config["optim"].update(lr=1e38, clip_norm=1e30)
    config["train"].update(steps=20, log_every=2, max_skipped=4)
    with pytest.raises(Diverged, match="of 5 steps in a row up to step 6 was not finite") as stop:
        run(config, tmp_path)
    assert stop.value.__notes__ == ["stopped after step 6 of 20, and saved"]
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["6"]

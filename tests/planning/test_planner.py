"""Plans of small configs for the emulated devices, and what is advised."""

import dataclasses
import runpy

import jax
import pytest

from bigcl import chips
from bigcl.config import plain
from bigcl.experiment import Experiment
from bigcl.planning import advice, report
from bigcl.planning.planner import make_plan, settings
from bigcl.registry import ConfigError

CHIP = chips.Chip(tflops=1e-3, memory=2**30, bandwidth=1e9, link=1e8, links=2)


def config(**changes):
    """A tiny SigLIP whose data and tokenizer are nowhere."""
    c = plain(runpy.run_path("configs/siglip.py")["get_config"]("smoke"))
    c["data"] = {"source": {"kind": "arrayrecord", "paths": "/nowhere"}}
    c["tokenizer"] = {"kind": "tokenizers_json", "path": "/nowhere.json"}
    return advice.with_changes(Experiment.resolve(c), list(changes.items()))


@pytest.fixture(scope="module")
def plan():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(chips.CHIPS, "cpu", CHIP)
        return make_plan(config(**{"mesh.fsdp": 2}), jax.devices())


def test_memory_is_what_the_compiler_reports(plan):
    experiment = Experiment(**config(**{"mesh.fsdp": 2}), devices=jax.devices())
    stats = experiment.compile_step().memory_analysis()
    assert plan.memory["arguments"] == pytest.approx(stats.argument_size_in_bytes, rel=0.01)
    assert plan.memory["temporaries"] == pytest.approx(stats.temp_size_in_bytes, rel=0.01)
    assert plan.memory["peak"] == sum(plan.memory[k] for k in ("arguments", "temporaries", "outputs"))
    assert plan.fits and plan.memory["limit"] == 2**30


def test_flops_bounds_and_input_follow_from_each_other(plan):
    assert plan.flops["pair"] * plan.batch == plan.flops["step"] < plan.flops["chip"] * 8  # it computes again
    assert plan.seconds["FLOPs"] == pytest.approx(plan.flops["chip"] / 1e9)
    assert plan.seconds["HBM"] == pytest.approx(plan.hbm_bytes / 1e9)
    by, seconds = plan.bound
    assert seconds == max(plan.seconds.values()) == plan.seconds[by]
    assert plan.hosts == 1 and plan.host_rate == pytest.approx(16 / seconds)
    assert plan.example_bytes == 32 * 32 * 3 + 4 * 64
    assert plan.max_mfu == pytest.approx(plan.flops["step"] / 8 / 1e9 / seconds)


def test_parameters_are_gathered_over_their_axis_and_layers_count_each(plan):
    over_fsdp = [c for c in plan.collectives if "fsdp" in c.axes]
    assert over_fsdp and all(c.bytes > 0 and c.count >= 1 for c in plan.collectives)
    assert any(t.source.startswith("bigcl/towers/") for t in plan.temporaries)
    text = report.describe(plan)
    assert "mesh data 4 x fsdp 2" in text and "bound by" in text and text.endswith("fits")


@pytest.mark.slow
def test_more_layers_are_more_of_everything(plan):
    deeper = make_plan(config(**{"mesh.fsdp": 2, "task.towers.image.depth": 6}), jax.devices())
    layer = 16 * 3 * 2 * (4 * (4 * 32 * 32 + 2 * 32 * 128) + 2 * 4 * 4 * 32)  # 16 examples of 4 patches
    assert deeper.flops["step"] - plan.flops["step"] == 4 * layer
    assert deeper.hbm_bytes > plan.hbm_bytes
    assert sum(c.count for c in deeper.collectives) > sum(c.count for c in plan.collectives)


def test_a_vocabulary_that_only_the_tokenizer_knows_is_asked_for():
    c = config()
    del c["task"]["towers"]["text"]["vocab"]
    with pytest.raises(ConfigError, match=r"task\.towers\.text\.vocab: .*give --config"):
        make_plan(c, jax.devices())
    c["tokenizer"] = {"kind": "bpe", "source": {"kind": "emoji"}, "vocab_size": 300}
    assert Experiment(**c, devices=jax.devices()).state_shapes.params["towers/text/embed"].shape == (300, 32)


@pytest.mark.slow
def test_what_does_not_fit_is_made_to_fit(monkeypatch):
    free = {"task.towers.image.remat": "none", "task.towers.text.remat": "none", "train.batch": 256}
    greedy = config(**free)
    tight = make_plan(config(**{"train.batch": 256}), jax.devices()).memory["peak"]
    monkeypatch.setitem(chips.CHIPS, "cpu", chips.Chip(1.0, int(1.05 * tight), 1e9, 1e8))
    plan = make_plan(greedy, jax.devices())
    assert not plan.fits and "does not fit" in report.describe(plan)
    said: list[str] = []
    option = advice.find_fit(plan, greedy, jax.devices(), said.append)
    assert option is not None and option.plan.fits and said[-1].endswith(": fits")
    assert dict(option.changes) == {f"task.towers.{t}.remat": "nothing_saveable" for t in ("image", "text")}


def test_changes_that_cost_least_come_first(plan):
    c = config(**{"task.towers.image.remat": "none", "train.batch": 64})
    plan = dataclasses.replace(plan, settings=settings(c))
    tried = [dict(changes) for changes in advice.changes_to_fit(plan, c, 8, 1)]
    keys = [sorted({k.split(".")[-1] for k in changes}) for changes in tried]
    assert keys[0] == ["remat"] and keys[1] == ["data", "fsdp", "replica", "tensor"]
    assert keys[2] == sorted({*keys[0], *keys[1]}) and keys[3] == sorted({*keys[2], "microbatch"})
    assert [t["train.microbatch"] for t in tried if "train.microbatch" in t][:3] == [32, 16, 8]
    assert "remat" in advice.written(list(tried[0].items()))


@pytest.mark.slow
def test_a_search_puts_the_fastest_first(monkeypatch):
    monkeypatch.setitem(chips.CHIPS, "cpu", CHIP)
    found = advice.search(config(), jax.devices(), lambda line: None)
    seconds = [option.plan.bound[1] for option in found]
    assert len(found) == 9 and seconds == sorted(seconds)  # three meshes, three policies
    assert len(report.describe_options(found, 3).splitlines()) == 4


@pytest.mark.parametrize(
    ("amount", "text"), [(None, "0 B"), (999, "999 B"), (999.9, "1 kB"), (2.46e9, "2.46 GB"), (1.5e20, "1.5e+05 PB")]
)
def test_amounts_are_short(amount, text):
    assert report.size(amount) == text

"""Plans of small configs for the emulated devices, and what is advised."""

import dataclasses
import runpy
import types

import jax
import pytest

from bigcl import chips
from bigcl.config import plain
from bigcl.experiment import Experiment
from bigcl.planning import advice, report
from bigcl.planning.buffers import Buffers
from bigcl.planning.planner import left_out, make_plan, memory, settings
from bigcl.registry import ConfigError

CHIP = chips.Chip(tflops=1e-3, tflops_8bit=2e-3, memory=2**30, bandwidth=1e9, link=1e8, links=2)


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
    monkeypatch.setitem(chips.CHIPS, "cpu", chips.Chip(1.0, 1.0, int(1.05 * tight), 1e9, 1e8))
    plan = make_plan(greedy, jax.devices())
    assert not plan.fits and "does not fit" in report.describe(plan)
    said: list[str] = []
    option = advice.find_fit(plan, greedy, jax.devices(), said.append)
    assert option is not None and option.plan.fits and said[-1].endswith(": fits")
    assert dict(option.changes) == {f"task.towers.{t}.remat": "nothing_saveable" for t in ("image", "text")}


def test_the_fewest_changes_come_first_and_of_those_that_cost_least(plan):
    c = config(**{"task.towers.image.remat": "none", "train.batch": 64})
    plan = dataclasses.replace(plan, settings=settings(c))
    ways = list(advice.ways_to_fit(plan, c, 8, 1))
    kinds = [
        ({key.split(".")[-1] for key, _ in changes} & {"remat", "fsdp"}) | ({"microbatch"} if sizes != [[]] else set())
        for changes, sizes in ways
    ]
    assert kinds == [
        *({"remat"}, {"fsdp"}, {"microbatch"}),
        *({"remat", "fsdp"}, {"remat", "microbatch"}, {"fsdp", "microbatch"}),
        {"remat", "fsdp", "microbatch"},
    ]
    assert ways[2] == ([], [[("train.microbatch", rows)] for rows in (32, 16, 8)])
    assert "remat" in advice.written(ways[0][0])
    sharded = advice.with_changes(c, ways[1][0])
    assert not any("mesh.fsdp" in dict(changes) for changes, _ in advice.ways_to_fit(plan, sharded, 8, 1))
    full = dataclasses.replace(plan, memory={**plan.memory, "limit": plan.memory["arguments"] - 1})
    assert all(dict(changes)["mesh.fsdp"] == 8 for changes, _ in advice.ways_to_fit(full, c, 8, 1))


def test_micro_batches_begin_with_none_whatever_the_config_says():
    c = config(**{"train.batch": 64, "train.microbatch": 16})
    assert advice.microbatches(c, 8, 1) == [
        [("train.microbatch", rows)] if rows != 16 else [] for rows in (None, 32, 16, 8)
    ]
    assert advice.smaller(c, 8, 1) == [[("train.microbatch", 8)]]


@pytest.mark.parametrize("mesh", [{"mesh.tensor": 2}, {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": -1}])
def test_micro_batches_end_with_a_row_for_each_part_of_the_batch(mesh):
    tried = advice.microbatches(config(**{"train.batch": 64}, **mesh), 8, 1)[1:]
    assert [dict(m)["train.microbatch"] for m in tried] == [32, 16, 8, 4]


def test_meshes_that_are_tried():
    def shapes(devices, slices=1, **more):
        found = map(dict, advice.meshes(config(), devices, slices, **more)[1:])
        return [(m["mesh.replica"], m["mesh.fsdp"], m["mesh.tensor"]) for m in found]

    assert shapes(8) == [(1, 8, 1), (1, 4, 2)]
    assert shapes(512, 2) == [(2, 256, 1), (2, 16, 1), (2, 8, 1), (2, 128, 2)]
    assert shapes(256, parameters=2 * 10**9)[-1] == (1, 64, 4)
    assert shapes(1) == []


@pytest.mark.parametrize("fitting", [0, 1, 3, 6, 7])
def test_the_first_that_fits_is_found_by_bisection(plan, monkeypatch, fitting):
    planned = []

    def make(config, devices):
        planned.append(config["train"]["microbatch"])
        return dataclasses.replace(plan, error="" if config["train"]["microbatch"] >= fitting else "too large")

    monkeypatch.setattr(advice, "make_plan", make)
    ordered = [[("train.microbatch", n)] for n in range(7)]
    option = advice.first_that_fits(config(), ordered, jax.devices(), lambda line: None)
    assert (dict(option.changes)["train.microbatch"] if option else 7) == fitting and len(planned) <= 3


def test_an_option_that_the_compiler_fails_on_is_said_and_left(plan, monkeypatch):
    def make(config, devices):
        if config["train"]["microbatch"]:
            raise jax.errors.JaxRuntimeError("INTERNAL: it broke\nat length")
        return plan

    monkeypatch.setattr(advice, "make_plan", make)
    said: list[str] = []
    assert advice.try_option(config(), [("train.microbatch", 8)], jax.devices(), said.append) is None
    assert said == ["  --config.train.microbatch=8: INTERNAL: it broke"]
    found = advice.search(config(**{"train.microbatch": 8}), jax.devices(), 0, said.append)
    assert len(found) == 9  # none of the whole batch broke


def test_hosts_of_gpus_are_searched_as_one_slice(plan, monkeypatch):
    monkeypatch.setattr(advice, "make_plan", lambda config, devices: plan)
    gpus = [types.SimpleNamespace(platform="gpu", slice_index=i // 8) for i in range(32)]
    found = advice.search(config(**{"train.batch": 64}), gpus, 0, lambda line: None)
    shapes = [dict(option.changes) for option in found]
    assert {m["mesh.fsdp"] for m in shapes if "mesh.fsdp" in m} == {32, 16, 8}
    assert {m["mesh.replica"] for m in shapes if "mesh.replica" in m} == {1}


@pytest.mark.slow
def test_a_search_puts_the_fastest_first(monkeypatch):
    monkeypatch.setitem(chips.CHIPS, "cpu", CHIP)
    found = advice.search(config(), jax.devices(), 0, lambda line: None)
    seconds = [option.plan.bound[1] for option in found]
    assert len(found) == 9 and seconds == sorted(seconds)  # three meshes, three policies
    assert len(report.describe_options(found, 3).splitlines()) == 4


class Broken:
    """A lowered program that compiles, and then has no room, as on TPU."""

    def __init__(self, lowered, message):
        self.lowered, self.message = lowered, message

    def compile(self, **options):
        if self.message.startswith("RESOURCE_EXHAUSTED"):
            self.lowered.compile(**options)
        raise jax.errors.JaxRuntimeError(self.message)


def test_a_program_without_room_is_still_read(plan, monkeypatch):
    lower = Experiment.lower_step
    message = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm\nUsed 20G of 16G"
    monkeypatch.setattr(Experiment, "lower_step", lambda self: Broken(lower(self), message))
    monkeypatch.setitem(chips.CHIPS, "cpu", CHIP)
    full = make_plan(config(**{"mesh.fsdp": 2}), jax.devices())
    assert not full.fits and full.error == message.splitlines()[0]
    assert report.describe(full).endswith(f"does not fit: {full.error}")
    assert full.memory == plan.memory and full.seconds == plan.seconds
    monkeypatch.setattr(Experiment, "lower_step", lambda self: Broken(lower(self), "INTERNAL: it broke"))
    with pytest.raises(jax.errors.JaxRuntimeError, match="it broke"):
        make_plan(config(**{"mesh.fsdp": 2}), jax.devices())


def test_memory_that_nobody_knows_is_no_verdict(plan):
    unknown = dataclasses.replace(plan, memory={**plan.memory, "limit": None})
    assert not unknown.fits and "no verdict" in report.describe(unknown)
    failed = dataclasses.replace(unknown, error="RESOURCE_EXHAUSTED")
    assert report.verdict(failed) == "does not fit: RESOURCE_EXHAUSTED"


@pytest.mark.parametrize(
    ("platform", "stats", "limit"),
    [
        ("gpu", {"bytes_limit": 10 * 2**30}, 10 * 2**30),
        ("gpu", None, 12 * 2**30),  # what JAX takes of it
        ("tpu", {}, 16 * 2**30),
        ("tpu", None, 16 * 2**30),
    ],
)
def test_the_allocator_of_a_device_that_is_there_knows_its_memory(monkeypatch, platform, stats, limit):
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    device = types.SimpleNamespace(platform=platform, memory_stats=lambda: stats)
    figures = chips.Chip(1.0, 1.0, 16 * 2**30, 1.0, 1.0)
    assert memory(Buffers(1, 2, 3, []), [device], figures) == {
        "arguments": 1,
        "outputs": 2,
        "temporaries": 3,
        "peak": 6,
        "limit": limit,
    }


def test_what_a_plan_leaves_out_is_said():
    c = config(**{"data.device": [{"kind": "mixup", "alpha": 0.2, "key": "image"}]})
    (note,) = left_out(c)
    assert note.startswith("data.device is left out (mixup)")
    c["data"] |= {"device": [], "transforms": [{"kind": "naflex", "tokens": [16, 64, 36], "key": "image"}]}
    (note,) = left_out(c)
    assert note.endswith("this is the one of most patches, 64")


def test_of_several_forms_of_a_batch_the_longest_is_planned():
    c = config(**{"task.towers.image.naflex": True})
    c["data"]["transforms"] = [{"kind": "naflex", "patch": 16, "tokens": [4, 64, 16], "key": "image"}]
    image = Experiment(**Experiment.resolve(c), devices=jax.devices()).batch_shapes()
    assert image["image"].shape == (16, 64, 16 * 16 * 3) and image["image_mask"].shape == (16, 64)
    assert image["image_shape"].shape == (16, 2)


@pytest.mark.parametrize(
    ("amount", "text"), [(None, "0 B"), (999, "999 B"), (999.9, "1 kB"), (2.46e9, "2.46 GB"), (1.5e20, "1.5e+05 PB")]
)
def test_amounts_are_short(amount, text):
    assert report.size(amount) == text

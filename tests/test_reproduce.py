"""Claims: what they say, how they are judged, and the command that trains and judges them."""

import json
import re
import signal
import xml.etree.ElementTree

import pytest

from bigcl import host, reproduce, stages
from bigcl.claims import Demand, make_claim
from bigcl.config import parse_variant
from bigcl.log import read_rows
from bigcl.notice import Interrupted
from bigcl.registry import ConfigError
from bigcl.report import papers as page
from bigcl.report.papers import dots

MEASURED = {
    "baseline": {0: {"eval/x/accuracy": 0.5}, 1: {"eval/x/accuracy": 0.7}},
    "method": {0: {"eval/x/accuracy": 0.9}, 1: {"eval/x/accuracy": 0.8}},
}


@pytest.mark.parametrize(
    ("demand", "values", "mean", "holds"),
    [
        ({"at_least": 0.85}, (0.9, 0.8), 0.85, True),
        ({"at_least": 0.85, "each_seed": True}, (0.9, 0.8), 0.85, False),
        ({"at_most": 0.84}, (0.9, 0.8), 0.85, False),
        ({"of": "baseline", "at_most": 0.6}, (0.5, 0.7), 0.6, True),
        ({"minus": "baseline", "at_least": 0.26}, (0.4, 0.1), 0.25, False),
        ({"minus": "baseline", "at_least": 0.1, "each_seed": True}, (0.4, 0.1), 0.25, True),
        ({"minus": "baseline", "at_most": 0.25}, (0.4, 0.1), 0.25, True),  # as floats a little more
        ({"minus": "baseline", "at_most": 0.25 - 1e-9}, (0.4, 0.1), 0.25, False),
        ({"over": "baseline", "at_least": 1.4}, (1.8, 0.8 / 0.7), 0.85 / 0.6, True),
    ],
)
def test_a_demand_is_judged(demand, values, mean, holds):
    verdict = Demand(metric="x/accuracy", **demand).judge(MEASURED, [0, 1])
    assert verdict.values == pytest.approx(values) and verdict.mean == pytest.approx(mean)
    assert verdict.holds == holds


def test_several_metrics_are_their_mean():
    measured = {
        "baseline": {0: {"eval/x": 0.2, "eval/y": 0.4}, 1: {"eval/x": 0.1, "eval/y": 0.1}},
        "method": {0: {"eval/x": 0.6, "eval/y": 0.2}, 1: {"eval/x": 0.5, "eval/y": 0.9}},
    }
    demand = Demand(metric=["x", "y"], minus="baseline", at_least=0.35)
    verdict = demand.judge(measured, [0, 1])
    assert verdict.values == pytest.approx((0.1, 0.6)) and verdict.holds
    assert str(demand) == "x and y of method minus baseline >= 0.35"
    assert Demand(metric=["x", "y"], over="baseline", at_least=0).judge(measured, [0, 1]).mean == pytest.approx(2.75)


def test_what_is_no_number_holds_nothing():
    measured = {"method": {0: {"eval/x/accuracy": float("nan")}}}
    assert not Demand(metric="x/accuracy", at_least=-1e9).judge(measured, [0]).holds
    assert not Demand(metric="x/accuracy", at_most=1e9).judge(measured, [0]).holds


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        ({"demands": [{"metric": "x"}]}, "demand on 'x': give either at_least or at_most"),
        ({"demands": [{"metric": "x", "at_least": 1, "minus": "a", "over": "b"}]}, "give either minus or over"),
        ({"demands": [{"metric": "x", "at_least": 1, "minus": "basline"}]}, "did you mean 'baseline'"),
        ({"demands": [{"metrik": "x", "at_least": 1}]}, "metrik: unknown key; did you mean 'metric'"),
        ({"demands": [], "seed": [0]}, "seed: unknown key; did you mean 'seeds'"),
    ],
)
def test_a_claim_that_says_nothing_is_an_error(claim, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        make_claim(claim, "recipe.py")


def test_a_metric_that_is_not_there():
    with pytest.raises(ConfigError, match="no metric 'x/acuracy'; did you mean 'x/accuracy'"):
        Demand(metric="x/acuracy", at_least=0).judge(MEASURED, [0])


def test_variants():
    arg = parse_variant("baseline,seed=3,k=2", "method", "baseline", k=1)
    assert (arg.variant, arg.seed, arg.k, arg.smoke) == ("baseline", 3, 2, False)
    assert parse_variant(None, "method", "baseline").variant == "method"
    assert parse_variant("smoke", "method").smoke
    for wrong, message in {
        "basline": "did you mean 'baseline'",
        "method,baseline": "there is 'method' already",
    }.items():
        with pytest.raises(ConfigError, match=message):
            parse_variant(wrong, "method", "baseline")


RECIPE = '''
"""A recipe for a test.

New: nothing.
"""
from bigcl.config import parse_variant


def stage(arg, **checkpoint):
    towers = {m: {"kind": "mlp", "inputs": 1, "widths": [16]} for m in "abc"}
    source = {"kind": "xor", "size": 64, "seed": arg.seed}
    return {
        "seed": arg.seed,
        "train": {"steps": 4, "batch": 32, "log_every": 2, "profile": 0},
        "data": {"source": source},
        "task": {"kind": "two_tower", "towers": towers, "losses": [{"kind": "infonce", "of": ["a", "b"]}]},
        "optim": {"lr": 0.0 if arg.variant == "baseline" else 0.1},
        "evals": {"xor": {"kind": "tuples", "source": source, "find": "a", "given": ["b", "c"], "score": "sum"}},
        "checkpoint": checkpoint,
    }


def get_config(arg=None):
    arg = parse_variant(arg, "method", "baseline")
    if arg.variant == "baseline":
        return stage(arg)
    return {"stages": {"stage1": stage(arg), "stage2": stage(arg, init_from="{stage1}")}}


CLAIM = {"seeds": (0, 1), "demands": [{"metric": "xor/chance", "at_least": 0.5}, {"metric": "loss", "at_least": BOUND}]}
'''


@pytest.fixture
def papers(tmp_path, monkeypatch):
    folder = tmp_path / "papers"
    folder.mkdir()
    (folder / "made_up.py").write_text(RECIPE.replace("BOUND", "0.0"))
    (folder / "too_good.py").write_text(RECIPE.replace("BOUND", "1e6"))
    monkeypatch.setattr(reproduce, "PAPERS", folder)
    monkeypatch.chdir(tmp_path)
    return folder


def test_the_command_trains_judges_and_writes(papers, capsys, monkeypatch):
    assert reproduce.main(["made-up"]) == 0
    printed = capsys.readouterr().out
    assert "made-up: the claim holds" in printed and "1 of 1 claims hold" in printed
    result = json.loads((papers.parent / "results" / "made-up.json").read_text())
    assert result["holds"] and result["runs"]["method"].keys() == {"0", "1"}
    assert result["demands"][0]["by_seed"] == {"0": 0.5, "1": 0.5} and result["environment"]["jax"]
    drawing = xml.etree.ElementTree.parse(papers.parent / "results" / "made-up.svg").getroot()
    assert len(drawing.findall(".//{*}circle")) == 2 * 2 * 2
    runs = papers.parent / "runs" / "reproduce" / "made-up"
    assert {p.name for p in runs.iterdir()} == {"baseline-0", "baseline-1", "method-0", "method-1"}
    first, second = (read_rows(runs / "method-0" / s / "metrics.jsonl")[0] for s in STAGES)
    assert first["step"] == second["step"] == 2 and second["loss"] < first["loss"]

    before = (runs / "method-0" / "stage2" / "metrics.jsonl").stat().st_mtime_ns
    assert reproduce.main(["made-up", "--seeds", "0"]) == 0  # what is finished is not trained again
    assert (runs / "method-0" / "stage2" / "metrics.jsonl").stat().st_mtime_ns == before
    assert json.loads((papers.parent / "results" / "made-up.json").read_text())["seeds"] == [0]


STAGES = ("stage1", "stage2")


def test_a_claim_that_does_not_hold_is_the_exit_status(papers, capsys):
    assert reproduce.main(["--all", "--seeds", "0"]) == 1
    printed = capsys.readouterr().out
    assert "too-good: the claim does NOT hold" in printed and "1 of 2 claims hold; not: too-good" in printed
    assert not json.loads((papers.parent / "results" / "too-good.json").read_text())["holds"]


def test_a_run_that_fails_ends_its_claim_alone(papers, capsys):
    diverges = (
        RECIPE.replace("BOUND", "0.0")
        .replace("else 0.1}", 'else float("nan")}')
        .replace('"log_every": 2,', '"log_every": 2, "max_skipped": 1,')
    )
    (papers / "a_failure.py").write_text(diverges)
    assert reproduce.main(["a-failure", "made-up", "--seeds", "0"]) == 1
    said = capsys.readouterr()
    assert "error: a-failure: " in said.err and "1 of 2 claims hold; not: a-failure" in said.out
    assert "made-up: the claim holds" in said.out and not (papers.parent / "results" / "a-failure.json").exists()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, host.REQUEUE)])
def test_one_that_is_asked_to_stop_stops(number, status, papers, capsys, monkeypatch):
    def stopped(config, workdir):
        raise Interrupted("stopped after step 2 of 4, and saved", number)

    monkeypatch.setattr(reproduce, "train", stopped)
    assert reproduce.main(["made-up", "too-good"]) == status
    said = capsys.readouterr()
    assert "made-up: stopped after step 2 of 4, and saved; the same command goes on" in said.err
    assert "too-good" not in said.err and "claims hold" not in said.out


def test_both_sides_of_a_comparison_are_printed_and_on_the_page(papers, capsys, monkeypatch):
    compared = '{"metric": "loss", "minus": "baseline", "at_most": 0.0}'
    (papers / "made_up.py").write_text(RECIPE.replace('{"metric": "loss", "at_least": BOUND}', compared))
    for out in (papers.parent / "results", papers.parent / "results" / "other-seeds"):
        assert reproduce.main(["made-up", "--out", str(out)]) == 0
    result = json.loads((papers.parent / "results" / "made-up.json").read_text())
    means = {run: sum(row["loss"] for row in rows.values()) / 2 for run, rows in result["runs"].items()}
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    for run, mean in means.items():
        assert any(line[0] == run and float(line[-2]) == pytest.approx(mean, abs=1e-4) for line in lines if line)
    plan = {"topology": "v5e:2x4", "memory": {"peak": 3.04e9, "limit": 17.18e9}}  # of `bigcl.plan --json`
    (papers.parent / "results" / "made-up.plan.json").write_text(json.dumps(plan))
    row = page.row("made-up", papers / "made_up.py", papers.parent / "results")
    assert "| v5e:2x4: 3.0 of 17 GB a chip |" in row
    assert row.count(f"loss: method {page.short(means['method'])}, baseline {page.short(means['baseline'])}, diff") == 2
    assert "other seeds: xor/chance" in row and "A recipe for a test" in row and "| nothing. |" in row
    monkeypatch.setattr(page, "ROOT", papers.parent)
    (papers.parent / "configs").mkdir()
    papers.rename(papers.parent / "configs" / "papers")
    text = page.write_table(papers.parent / "results", papers.parent / "papers.md").read_text()
    assert row in text and "| `too-good` |" in text and "not measured" in text
    written = papers.parent / "papers.md"
    assert reproduce.main(["--table", "--out", str(papers.parent / "nothing")]) == 2  # rather than an empty page
    assert "nothing: no results of any recipe" in capsys.readouterr().err and written.read_text() == text


def test_unknown_recipes_name_the_nearest(papers, capsys):
    assert reproduce.main(["mad-up"]) == 2
    assert "no recipe 'mad-up' in configs/papers; did you mean 'made-up'" in capsys.readouterr().err


def test_stages_are_all_there_is():
    with pytest.raises(ConfigError, match=r"config\.seed: a config of several stages holds nothing but them"):
        stages.resolved({"stages": {}, "seed": 1})


def test_stages_run_in_the_order_of_their_names():
    """Whatever the order in the config, and 10 stands before 2."""
    first, second = {}, {"checkpoint": {"init_from": "{stage2}/last"}}
    with pytest.raises(ConfigError, match=r"config\.stages\.stage10: reads \{stage2\}.*, stage10, stage2; rename"):
        stages.resolved({"stages": {"stage2": first, "stage10": second}})


def test_a_plot_of_equal_numbers_is_a_plot():
    assert "circle" in dots("x", {"metric": {"baseline": [1.0, 1.0], "method": [1.0]}})

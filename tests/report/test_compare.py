"""Runs side by side."""

import re
import subprocess
import sys

import pytest

from bigcl.report import build_comparison
from bigcl.report.compare import difference, flat
from tests.report.test_report import Page, make_run


def rows(scale, recall):
    found = [
        {"step": s, "loss": scale / s, "image_text/accuracy": 0.1 * s, "image_text/effective_negatives": scale * s}
        for s in range(1, 9)
    ]
    return [*found, *({"step": s, "eval/r/recall@1": recall * s, "eval/r/median_rank": 10.0 / s} for s in (4, 8))]


def test_curves_tables_and_what_was_set_otherwise(tmp_path):
    first = make_run(tmp_path / "a" / "run", rows(1.0, 0.05), optim={"lr": 0.1, "kinds": [{"kind": "<muon>"}]})
    second = make_run(tmp_path / "b" / "run", rows(2.0, 0.075), optim={"lr": 0.2, "kinds": [{"kind": "<muon>"}]})
    third = make_run(tmp_path / "begun", [])
    text = build_comparison([first, second, third], tmp_path / "deep" / "out.html").read_text()
    page = Page(text)
    assert page.headings == ["Runs", "Final numbers", "What was set otherwise", "Evaluation", "Training"]
    assert {"run (1)", "run (2)", "begun"} <= set(re.findall(r"<h3>(.*?)</h3>", text))
    charts = re.findall(
        r'<svg viewBox="[^"]*" class="chart" role="img" aria-label="(.*?) over steps">(.*?)</svg>', text
    )
    assert [name for name, _ in charts[:3]] == ["r · recall@1", "r · median rank", "Loss"] and len(charts) == 5
    assert all(figure.count('class="line c') == 2 for _, figure in charts)
    body = re.findall(r"<tbody>(.*?)</tbody>", text, re.DOTALL)
    numbers = re.findall(r"<tr>(.*?)</tr>", body[0])
    assert re.findall(r"<td[^>]*>(.*?)</td>", numbers[0]) == ["40.0%", "60.0%<small>+20.0 pts</small>", ""]
    assert 'class="better"' in numbers[0] and 'class="worse"' in numbers[-1] and 'class="worse"' not in numbers[1]
    assert re.findall(r'<th scope="row">(.*?)</th>', body[1]) == ["optim.lr", "optim.kinds.0.kind"]
    assert "<muon>" not in text and not re.search(r"https?://|@import", text)


@pytest.mark.parametrize(
    ("key", "by", "said"),
    [
        ("eval/r/recall@1", -0.01, ("-1.0 pts", "worse")),
        ("loss", -0.5, ("−0.5", "better")),
        ("eval/r/mean_reciprocal_rank", 0.5, ("+0.5", "better")),
        ("eval/g/image/effective_rank", 0.5, ("+0.5", "")),
        ("eval/r/mean_rank_variance/en", 0.5, ("+0.5", "worse")),
        ("eval/r/examples", 5.0, ("+5", "")),
        ("eval/r/recall@1", 0.0, ("+0.0 pts", "")),
    ],
)
def test_which_way_is_better(key, by, said):
    assert difference(key, by) == said


def test_configs_by_dotted_keys():
    assert flat({"a": {"b": [1, 2]}, "c": [{"d": None}]}) == {"a.b": [1, 2], "c.0.d": None}


def test_the_command(tmp_path):
    run = make_run(tmp_path / "run")
    command = [sys.executable, "-m", "bigcl.report", "--runs", str(run), str(tmp_path / "none"), "--out"]
    done = subprocess.run([*command, str(tmp_path / "o.html")], capture_output=True, text=True)
    assert done.returncode == 1 and "config.json is missing" in done.stderr
    done = subprocess.run([*command[:5], "--out", str(tmp_path / "o.html")], capture_output=True, text=True)
    assert done.stdout.strip() == str(tmp_path / "o.html") and (tmp_path / "o.html").exists()

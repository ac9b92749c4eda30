"""The page of a sweep."""

import json
import re

import pytest

from bigcl.report import build_sweep
from bigcl.report.sweep import Axis, Point, log_ticks, render_sweep


def write_member(folder, name, loss, recall, step=10):
    workdir = folder / name
    workdir.mkdir(parents=True)
    (workdir / "config.json").write_text(json.dumps({"train": {"steps": 10}}))
    rows = [{"step": step, "loss": loss, "eval/r/recall@1": recall}]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_table_and_charts_from_the_folders_of_the_members(tmp_path):
    members = {}
    for i, (lr, kind) in enumerate([(1e-3, "adamw"), (1e-2, "adamw"), (1e-3, "<muon>"), (1e-2, "<muon>")]):
        members[f"m{i}"] = {"optim.lr": lr, "optim.optimizer.kind": kind}
        write_member(tmp_path, f"m{i}", 1.0 - i / 10, i / 10, step=10 if i else 4)
    members["m4"] = {"optim.lr": 1e-1, "optim.optimizer.kind": "adamw"}
    (tmp_path / "sweep.json").write_text(json.dumps({"sweep": "s.py", "members": members}))
    page = build_sweep(tmp_path).read_text()
    body = page[page.index("<tbody>") :]
    cells = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", body)]
    assert [row[2] for row in cells] == ["30.0%", "20.0%", "10.0%", "0.0%", ""]  # best first, the unknown last
    assert cells[0] == ["0.01", "&lt;muon&gt;", "30.0%", "0.7", "10 of 10"] and cells[-1][-1] == "not begun"
    assert cells[-2][-1] == "4 of 10" and "<b>3</b> of them" in page
    figures = re.findall(r'aria-label="(.*?)"', page)
    assert figures[0] == "Settings and r · recall@1 of every member" and "<muon>" not in page
    assert {"r · recall@1 against optim.lr", "loss against optim.optimizer.kind"} <= set(figures) and len(figures) == 5
    assert page.count("<circle") == 16


def test_a_sweep_of_which_nothing_ran_is_a_table():
    page = render_sweep("s", "s.py", [Point("a", {"x": 1}, {}, 0, 0)])
    assert "<svg" not in page and "not begun" in page


def test_axes():
    log, even, names = Axis([1e-4, 1e-3, 1e-2]), Axis([0, 1, 4]), Axis(["b", "a", "c"])
    assert log(1e-3) == pytest.approx(0.5) and even(1) == 0.25 and names("a") == 0.5 and Axis([3, 3])(3) == 0.5
    assert [label for _, label in log.marks()] == ["1e-04", "0.001", "0.01"]
    drawn = Axis([10**x for x in (-3.9, -3.1, -2.5, -2.2, -1.7, -1.1)])
    assert [label for _, label in drawn.marks()] == ["3e-04", "0.001", "0.003", "0.01", "0.03"]
    assert log_ticks(1.0, 9.0) == [1, 2, 5] and log_ticks(1e-8, 1.0) == pytest.approx([1e-8, 1e-6, 1e-4, 1e-2, 1])


def test_what_is_no_sweep(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not the folder of a sweep"):
        build_sweep(tmp_path)
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(ValueError, match=r"sweep\.json"):
        build_sweep(tmp_path)

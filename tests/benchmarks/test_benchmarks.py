"""The comparisons run at a tiny size and print what they promise; open_clip takes part where it is installed."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
WITH_OPEN_CLIP = all(importlib.util.find_spec(m) for m in ("torch", "open_clip"))


def run(benchmark: str, *arguments: str) -> list[dict]:
    """The JSON lines of a benchmark."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{benchmark}", "--tiny", "--rounds", "2", *arguments],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def positive(line: dict, *keys: str) -> None:
    assert all(line[key] > 0 for key in keys), line


def test_step():
    lines = run("step", "--batch", "4", "--steps", "1")
    assert {(x["benchmark"], x["batch"], x["dtype"], x["tiny"]) for x in lines} == {("step", 4, "float32", True)}
    peers = {x["peer"]: x for x in lines if "peer" in x}
    assert set(peers) == {"bigcl", "open_clip"}
    measured = [x for x in peers.values() if "skipped" not in x]
    assert len(measured) == 1 + WITH_OPEN_CLIP
    for x in measured:
        positive(x, "best_ms", "best_cpu_ms", "pairs_per_second", "tflops", "loss")
        assert x["best_ms"] <= x["median_ms"] and x["rounds"] == 2
        assert x["parameters"] == peers["bigcl"]["parameters"]
        assert x["pairs_per_second"] == pytest.approx(4e3 / x["best_ms"], rel=1e-3)
    if WITH_OPEN_CLIP:
        positive(lines[-1], "ratio", "ratio_median", "ratio_cpu")
        ours, theirs = peers["bigcl"]["best_ms"], peers["open_clip"]["best_ms"]
        assert lines[-1]["ratio"] == pytest.approx(theirs / ours, rel=1e-3)
    else:
        assert "torch" in peers["open_clip"]["skipped"]


@pytest.mark.parametrize("loss", ["infonce", "sigmoid"])
def test_loss(loss):
    forms = ("dense", "streamed", "ring", "open_clip")
    lines = run("loss", "--loss", loss, "--forms", ",".join(forms), "--repeat", "1", "--devices", "2")
    measured = [x for x in lines if "skipped" not in x]
    present = forms if WITH_OPEN_CLIP else forms[:-1]
    assert {(x["form"], x["batch"]) for x in measured} == {(f, b) for f in present for b in (16, 48)}
    assert {x["form"] for x in lines} == set(forms)
    for x in measured:
        positive(x, "best_ms", "best_cpu_ms", "matmuls_ms", "value")
        assert x["over_matmuls"] == pytest.approx(x["best_ms"] / x["matmuls_ms"], rel=1e-3)
        if x["form"] != "open_clip":
            positive(x, "temporaries_mib")
    for batch in (16, 48):
        values = [x["value"] for x in measured if x["batch"] == batch]
        assert values == pytest.approx([values[0]] * len(values), rel=1e-3)


def test_decode():
    lines = run("decode")
    measured = {
        (x.get("decode"), x.get("resize"), x.get("scale", x.get("from"))): x for x in lines if "skipped" not in x
    }
    for x in measured.values():
        positive(x, "best_ms", "median_ms")
        assert x["best_ms"] <= x["median_ms"] and (x["db"] is None or x["db"] > 30)
    for known in (("Pillow", None, "8/8"), (None, "Pillow, bicubic", "640 x 480")):
        assert measured[known]["db"] is None  # what the others are compared with
    for known in (("Pillow", None, "4/8"), (None, "Pillow, bicubic", "320 x 240"), ("simplejpeg", None, "4/8")):
        assert measured[known]["db"] < 60
    optional = {"OpenCV", "TurboJPEG", "OpenCV, area"}
    assert all({x.get("decode"), x.get("resize")} & optional for x in lines if "skipped" in x)


def test_save():
    (line,) = run("save")
    positive(line, "blocked_seconds", "written_seconds", "restored_seconds")
    assert line["save_host_bytes"] == line["state_bytes"] > 1e5


def test_embed():
    (line,) = run("embed", "--batch", "8", "--batches", "2")
    positive(line, "tower_per_second", "job_per_second", "ratio")

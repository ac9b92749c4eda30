"""A shard that is gone, before a run or in the middle of it."""

import json

import pytest

from bigcl.log import read_rows
from tests.faults import sharded
from tests.faults.harness import Job

CONFIG = "tests/faults/sharded.py"


@pytest.fixture
def shards(tmp_path):
    """A folder of four."""
    sharded.write(tmp_path / "shards")
    return tmp_path / "shards"


def test_a_shard_that_goes_while_the_run_reads_is_replaced(shards, tmp_path):
    """Its examples are listed; too many of them stop the run, which goes on when the shard is there again."""
    workdir, gone = tmp_path / "run", shards / "3.tar"
    command = ("--config", f"{CONFIG}:{shards}", "--config.train.steps=4000")
    job = Job(workdir, *command)
    assert job.until_step(20), job.output()
    content = gone.read_bytes()
    gone.unlink()
    assert job.wait() == [1], job.output()
    output = job.output()
    assert "Traceback" not in output and "data.max_bad_fraction" in output and "gone since it was indexed" in output
    listed = [json.loads(line) for line in (workdir / "quarantine.jsonl").read_text().splitlines()]
    first = 3 * sharded.SAMPLES
    assert listed and all(first <= record["index"] < first + sharded.SAMPLES for record in listed)
    assert all(record["shard"] == str(gone) for record in listed)
    rows = read_rows(workdir / "metrics.jsonl")
    assert sum(row["bad_records"] for row in rows) > 10 and all(row["loss"] is not None for row in rows)
    saved = max(int(p.name) for p in (workdir / "checkpoints").iterdir())
    assert saved == rows[-1]["step"] < 4000
    gone.write_bytes(content)
    job = Job(workdir, *command, f"--config.train.steps={saved + 10}")
    assert job.wait() == [0], job.output()
    assert f"resuming after step {saved}" in job.output() and "data changed" not in job.output()
    assert read_rows(workdir / "metrics.jsonl")[-1]["bad_records"] == 0


def test_a_shard_that_is_gone_before_the_start_is_a_sentence(shards, tmp_path):
    """Where the shards are named. In a folder nothing says how many there should be, but a run that goes on says that
    its data changed."""
    workdir = tmp_path / "run"
    (shards / "3.tar").rename(tmp_path / "aside")
    job = Job(workdir, "--config", f"{CONFIG}:{shards}/{{0..3}}.tar")
    assert job.wait() == [1], job.output()
    assert f"{shards}/3.tar" in job.output() and "Traceback" not in job.output(), job.output()
    assert not (workdir / "metrics.jsonl").exists()
    (tmp_path / "aside").rename(shards / "3.tar")
    job = Job(workdir, "--config", f"{CONFIG}:{shards}")
    assert job.wait() == [0], job.output()
    (shards / "3.tar").unlink()
    job = Job(workdir, "--config", f"{CONFIG}:{shards}", "--config.train.steps=130")
    assert job.wait() == [0], job.output()
    assert "data changed since this run began: examples: 256 -> 192" in job.output()

"""A stretch of data that goes wrong, in real runs."""

import re

import pytest

from bigcl.log import read_rows
from tests.faults.harness import Job, assert_same_run, finish_under_fire

SPIKE = ("--config", "tests/faults/spiky.py:spike")


@pytest.fixture(scope="module")
def rewound(tmp_path_factory):
    """A run that met a spike, went back, and came to its end."""
    workdir = tmp_path_factory.mktemp("rewound") / "run"
    job = Job(workdir, *SPIKE)
    assert job.wait() == [0], job.output()
    return workdir, job.output()


def test_a_spike_takes_the_run_back_and_past_the_data(rewound):
    workdir, output = rewound
    rows = [row for row in read_rows(workdir / "metrics.jsonl") if "loss" in row]
    assert [row["step"] for row in rows] == list(range(5, 201, 5))
    backs = [tuple(map(int, pair)) for pair in re.findall(r"back to step (\d+), and on .* after step (\d+)", output)]
    assert backs and rows[0]["passed_over"] == 0
    assert rows[-1]["passed_over"] == sum(seen - target for target, seen in backs)
    first = backs[0][0]  # that row is from before, the next one is not
    assert [r["passed_over"] for r in rows if r["step"] <= first] == [0] * (first // 5)
    assert next(r for r in rows if r["step"] > first)["passed_over"] > 0
    assert max(row["loss"] for row in rows[20:]) < 5 * rows[20]["loss"]
    assert len({row["batch_hash"] for row in rows}) == len(rows)


def test_killed_around_a_spike_a_run_ends_as_if_nothing_had_happened(rewound, tmp_path):
    struck = finish_under_fire(tmp_path / "run", *SPIKE, kills=4, seed=1)
    assert struck > 0
    assert_same_run(tmp_path / "run", rewound[0])


def test_without_leave_the_spike_is_said_and_no_more(rewound, tmp_path):
    job = Job(tmp_path / "run", *SPIKE, "--config.train.rewinds=0")
    assert job.wait() == [0]
    assert "ALARM: the loss is" in job.output() and "goes back" not in job.output()
    assert "passed_over" not in read_rows(tmp_path / "run" / "metrics.jsonl")[-1]


def test_batches_that_are_no_numbers_are_not_learned_from(tmp_path):
    """Four of them: counted, and nothing is lost. Were there ten, the run would end."""
    job = Job(tmp_path / "run", "--config", "tests/faults/spiky.py:nan")
    assert job.wait() == [0], job.output()
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert rows[-1]["skipped_steps"] > 3 and rows[-1]["loss"] < rows[0]["loss"]
    assert all(row["loss"] is not None for row in rows[-5:])
    job = Job(tmp_path / "stopped", "--config", "tests/faults/spiky.py:nan", "--config.train.max_skipped=3")
    assert job.wait() == [1] and "in a row up to step" in job.output() and "Traceback" not in job.output()

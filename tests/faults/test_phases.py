"""What happens to a process in a certain part of its run: killed, frozen, asked to stop."""

import random
import re
import signal

import pytest

from bigcl.host import REQUEUE
from bigcl.log import read_rows
from bigcl.watchdog import STUCK
from tests.faults.harness import PATIENCE, Job, assert_same_run

STRUCK = "tests/faults/struck.py"


def struck(workdir, place, number, process=0, nth=1, processes=1, *arguments):
    """A job whose process is struck there."""
    config = f"{STRUCK}:{place},{number.name},{process},{nth}"
    return Job(workdir, "--config", config, *arguments, processes=processes)


def kill_inside(workdir, seed, processes, place):
    """A job that is killed while it does that; the process and the time are drawn with `seed`."""
    chance = random.Random(seed)
    process, nth = chance.randrange(processes), chance.randrange(1, 8 if place != "evaluation" else 4)
    job = struck(workdir, place, signal.SIGKILL, process, nth, processes)
    assert job.processes[process].wait(PATIENCE) == -signal.SIGKILL, job.output()
    job.kill()
    rows = read_rows(workdir / "metrics.jsonl")
    if place == "evaluation":
        assert rows[-1]["step"] % 50 == 0 and not any(key.startswith("eval/") for key in rows[-1])
    elif place == "writing":
        assert list((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp"))


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))])
def test_killed_in_a_save_and_in_an_evaluation(undisturbed, tmp_path, seed):
    for place in ("writing", "evaluation", *(["save"] if seed else [])):
        kill_inside(tmp_path / "run", seed, 1, place)
    job = Job(tmp_path / "run")
    assert job.wait() == [0], job.output()
    assert_same_run(tmp_path / "run", undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_one_of_two_killed_in_a_save_and_in_an_evaluation(pair, tmp_path, seed):
    for place in ("writing", "evaluation", "save"):
        kill_inside(tmp_path / "run", seed, 2, place)
    job = Job(tmp_path / "run", processes=2)
    assert job.wait() == [0, 0], job.output()
    assert_same_run(tmp_path / "run", pair)


@pytest.mark.slow
@pytest.mark.parametrize(
    "place, deadline, told",
    [
        ("save", "save", "saving step 10"),
        ("restore", "start", "restoring"),
        ("evaluation", "evaluation", "evaluation retrieval at step 50"),
    ],
)
def test_one_of_two_that_is_frozen_is_named_by_the_other(pair, tmp_path, place, deadline, told):
    """Long enough for the signs of life to be missed."""
    if place == "restore":
        job = Job(tmp_path / "run", processes=2)
        assert job.until_step(30), job.output()
        job.kill()
    job = struck(tmp_path / "run", place, signal.SIGSTOP, 1, 1, 2, f"--config.deadlines.{deadline}=60")
    try:
        assert job.processes[0].wait(PATIENCE) == STUCK, job.output()
    finally:
        job.kill()
    dump = (tmp_path / "run" / "stuck-0.txt").read_text()
    assert re.match(rf"process 0 on \S+ stands still: {told} for \d+ s\n", dump) and "Thread 0x" in dump
    assert re.search(r"process 1 on \S+: silent for \d+ s, then ", dump), dump
    job = Job(tmp_path / "run", processes=2)  # as a launcher does
    assert job.wait() == [0, 0], job.output()
    assert_same_run(tmp_path / "run", pair)


PLACES = {  # where the run says that it stopped
    "start": "stopped before training",
    "restore": "stopped before step",
    "compilation": "stopped before step",
    "evaluation": "stopped after step 50 of 300, and saved",
    "end": "stopped after step 300, before the report",
}
QUICK = ("compilation", "end")


@pytest.mark.parametrize("place", [p if p in QUICK else pytest.param(p, marks=pytest.mark.slow) for p in PLACES])
def test_a_notice_is_kept_until_it_can_be_obeyed(undisturbed, tmp_path, place):
    """Wherever it finds the run."""
    workdir = tmp_path / "run"
    number = random.Random(place).choice((signal.SIGTERM, signal.SIGUSR1))
    if place == "restore":
        job = Job(workdir)
        assert job.until_step(30), job.output()
        job.kill()
    job = struck(workdir, place, number)
    assert job.wait() == [REQUEUE] and PLACES[place] in job.output(), job.output()
    assert "To go on from there, run the same command again" in job.output()
    job = Job(workdir)
    assert job.wait() == [0], job.output()
    assert_same_run(workdir, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_a_notice_to_one_of_two_stops_both(pair, tmp_path, place):
    workdir = tmp_path / "run"
    if place == "restore":
        job = Job(workdir, processes=2)
        assert job.until_step(30), job.output()
        job.kill()
    job = struck(workdir, place, signal.SIGTERM, 1, 1, 2)
    assert job.wait() == [REQUEUE, REQUEUE], job.output()
    job = Job(workdir, processes=2)
    assert job.wait() == [0, 0], job.output()
    assert_same_run(workdir, pair)

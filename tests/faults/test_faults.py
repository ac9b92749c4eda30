"""What happens to a run may not change what it learns."""

import re
import shutil
import signal
import time

import numpy as np
import pytest

from bigcl.host import REQUEUE
from bigcl.watchdog import BEAT, STUCK
from tests.faults.harness import Job, assert_same_run, finish_under_fire, history


@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_at_any_moment_a_run_ends_as_if_nothing_had_happened(undisturbed, tmp_path, kills):
    rounds = struck = 0
    while struck < kills:  # the run may end before all kills are spent
        workdir = tmp_path / str(rounds)
        struck += finish_under_fire(workdir, kills=kills - struck, seed=rounds)
        assert_same_run(workdir, undisturbed)
        rounds += 1


@pytest.mark.slow
def test_two_processes_survive_the_death_of_one(tmp_path):
    job = Job(tmp_path / "whole", processes=2)
    assert job.wait() == [0, 0], job.output()
    assert finish_under_fire(tmp_path / "run", kills=2, seed=3, processes=2) > 0
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_on_other_numbers_of_processes_a_run_sees_the_same_examples(undisturbed, tmp_path):
    """Two processes, then one, then two: numbers differ by the order of sums alone."""
    workdir = tmp_path / "run"
    for processes, until in ((2, 100), (1, 200), (2, None)):
        job = Job(workdir, processes=processes)
        if until is None:
            assert job.wait() == [0, 0], job.output()
        else:
            assert job.until_step(until), job.output()
            job.kill()
    assert "is damaged" not in job.output()
    one, other = history(undisturbed), history(workdir)
    assert [row["batch_hash"] for row in one] == [row["batch_hash"] for row in other]
    np.testing.assert_allclose([row["loss"] for row in other], [row["loss"] for row in one], rtol=1e-2)
    np.testing.assert_allclose([row["loss"] for row in other[:20]], [row["loss"] for row in one[:20]], rtol=1e-4)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)])
def test_a_notice_of_preemption_saves_and_asks_to_be_started_again(undisturbed, tmp_path, number):
    job = Job(tmp_path / "run")
    assert job.until_step(50)
    job.processes[0].send_signal(number)
    assert job.wait() == [REQUEUE] and "and saved" in job.output()
    job = Job(tmp_path / "run")
    assert job.wait() == [0], job.output()
    assert_same_run(tmp_path / "run", undisturbed)


def test_one_process_that_has_notice_stops_all_within_seconds(tmp_path):
    """However seldom rows are logged."""
    job = Job(tmp_path / "run", "--config.train.steps=100000", "--config.train.log_every=50000", processes=2)
    assert job.until(lambda: (tmp_path / "run" / "checkpoints" / "20").exists(), "checkpoint"), job.output()
    job.processes[1].send_signal(signal.SIGTERM)
    assert job.wait() == [REQUEUE, REQUEUE], job.output()
    assert "and saved" in job.output()


def test_a_damaged_checkpoint_is_put_aside(undisturbed, tmp_path):
    workdir = tmp_path / "run"
    job = Job(workdir)
    assert job.until_step(60)
    job.kill()
    newest = max((p for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    largest = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    job = Job(workdir)
    assert job.wait() == [0] and "is damaged" in job.output()
    assert (workdir / "damaged" / newest.name).is_dir()
    assert_same_run(workdir, undisturbed)


@pytest.mark.slow
def test_a_frozen_process_is_named_and_the_others_end(tmp_path):
    deadline = 4.5 * BEAT  # by then the three signs of life are missed that make a process silent
    job = Job(tmp_path / "run", f"--config.deadlines.step={deadline}", processes=2)
    assert job.until_step(30)
    job.processes[1].send_signal(signal.SIGSTOP)
    try:
        assert job.processes[0].wait(200) == STUCK, job.output()
    finally:
        job.kill()
    told = (tmp_path / "run" / "stuck-0.txt").read_text()
    assert "process 0 on" in told and "stands still: step" in told and "Thread 0x" in told
    assert re.search("process 1 on .*: silent for", told)
    job = Job(tmp_path / "run", processes=2)
    assert job.wait() == [0, 0], job.output()


@pytest.mark.slow
def test_a_process_that_is_slow_is_waited_for(tmp_path):
    """At a barrier: one comes some seconds after the other, within the deadline."""
    job = Job(tmp_path / "whole", processes=2)
    assert job.wait() == [0, 0], job.output()
    job = Job(tmp_path / "run", processes=2)
    for step in (30, 95):
        assert job.until_step(step), job.output()
        job.processes[1].send_signal(signal.SIGSTOP)
        time.sleep(5)
        job.processes[1].send_signal(signal.SIGCONT)
    assert job.wait() == [0, 0], job.output()
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_the_harness_would_see_a_difference(undisturbed, tmp_path):
    """Another seed is another run."""
    workdir = tmp_path / "run"
    job = Job(workdir, "--config.seed=1")
    assert job.wait() == [0], job.output()
    with pytest.raises(AssertionError):
        assert_same_run(workdir, undisturbed)
    shutil.rmtree(workdir)

"""A disk that is full, or not to be written, in the middle of a run or before it."""

import contextlib
import resource
import signal
import subprocess

import pytest

from bigcl.host import REQUEUE
from tests.faults.harness import Job, assert_same_run, history, last_step
from tests.faults.tiny import parameters


@contextlib.contextmanager
def mounted(folder, options):
    """A small disk of its own at a folder."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    if done.returncode:
        pytest.skip(f"mount is not permitted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_while_the_disk_is_full_training_goes_on_and_nothing_is_lost(undisturbed, tmp_path):
    """Rows, checkpoints and event files all fail for a while; what a failed checkpoint leaves is filled again."""
    with mounted(tmp_path / "run", "size=4m") as workdir:
        job = Job(workdir)
        assert job.until_step(30), job.output()
        with (workdir / "ballast").open("wb", buffering=0) as ballast:

            def rows_fail():
                with contextlib.suppress(OSError):
                    while ballast.write(b"x" * 4096):
                        pass
                return "metrics.jsonl cannot be written" in job.output()

            assert job.until(rows_fail, "row that fails"), job.output()
        assert job.until_said("a checkpoint could not be written"), job.output()
        (workdir / "ballast").unlink()
        assert job.wait() == [0], job.output()
        output = job.output()
        assert output.count("metrics.jsonl cannot be written") == output.count("metrics.jsonl can be written again") > 0
        assert "No space left on device" in output
        # Of a save that fails while it is written, and of one that cannot begin; which of them fail is up to the disk.
        followed = output.count("is saved instead") + output.count("the next is tried at its time")
        assert followed == output.count("warning: a checkpoint could not be written") > 0
        assert not list((workdir / "checkpoints").glob("*tmp*"))
        assert_same_run(workdir, undisturbed)
        assert any(p.stat().st_size > 10_000 for p in (workdir / "tensorboard").iterdir())


@pytest.mark.slow
def test_a_disk_that_is_full_for_one_of_two_stops_neither(pair, tmp_path):
    """No file of the second process may grow, for a while: then there is no checkpoint of either."""
    workdir = tmp_path / "run"
    job = Job(workdir, processes=2)
    assert job.until_step(30), job.output()
    process = job.processes[1].pid
    before = resource.prlimit(process, resource.RLIMIT_FSIZE)
    resource.prlimit(process, resource.RLIMIT_FSIZE, (100, before[1]))
    told = "warning: process 1: a checkpoint could not be written"
    assert job.until(lambda: job.output().count(told) >= 4, "two failed saves, said by both"), job.output()
    resource.prlimit(process, resource.RLIMIT_FSIZE, before)
    assert job.wait() == [0, 0] and "is saved instead" in job.output(), job.output()
    assert not list((workdir / "checkpoints").glob("*tmp*"))
    assert_same_run(workdir, pair)


def test_rows_that_cannot_be_written_wait(undisturbed, tmp_path):
    """No file of the process may grow beyond a few rows, for a while."""
    workdir = tmp_path / "run"
    job = Job(workdir)
    assert job.until_step(30), job.output()
    process = job.processes[0].pid
    before = resource.prlimit(process, resource.RLIMIT_FSIZE)
    resource.prlimit(process, resource.RLIMIT_FSIZE, ((workdir / "metrics.jsonl").stat().st_size + 1500, before[1]))
    assert job.until_said("metrics.jsonl cannot be written"), job.output()
    assert last_step(workdir) < 300
    resource.prlimit(process, resource.RLIMIT_FSIZE, before)
    assert job.wait() == [0] and "metrics.jsonl can be written again" in job.output(), job.output()
    assert history(workdir) == history(undisturbed)
    assert parameters(workdir).keys() == parameters(undisturbed).keys()


def test_asked_to_stop_while_the_disk_is_full_it_is_started_again(undisturbed, tmp_path):
    """From the checkpoint before: a scheduler's notice is no crash, whatever the disk is."""
    workdir = tmp_path / "run"
    job = Job(workdir)
    assert job.until_step(30), job.output()
    process = job.processes[0].pid
    resource.prlimit(process, resource.RLIMIT_FSIZE, (100, resource.prlimit(process, resource.RLIMIT_FSIZE)[1]))
    job.processes[0].send_signal(signal.SIGTERM)
    assert job.wait() == [REQUEUE] and ", but not saved: a checkpoint could not be written" in job.output(), (
        job.output()
    )
    assert not list((workdir / "checkpoints").glob("*tmp*"))
    job = Job(workdir)
    assert job.wait() == [0] and "is damaged" not in job.output(), job.output()
    assert_same_run(workdir, undisturbed)


@pytest.mark.parametrize("how", ["below a file", "read-only"])
def test_a_workdir_that_cannot_be_written_is_a_sentence(tmp_path, how):
    """Before JAX starts: there is no such platform."""
    with contextlib.ExitStack() as stack:
        if how == "read-only":
            folder = stack.enter_context(mounted(tmp_path / "disk", "ro"))
        else:
            folder = tmp_path / "file"
            folder.touch()
        job = Job(tmp_path / "run", "--workdir", str(folder / "run"), JAX_PLATFORMS="none")
        assert job.wait() == [1]
        reason = {"read-only": "Read-only file system", "below a file": "Not a directory"}[how]
        assert job.output().strip() == f"error: --workdir {folder}/run cannot be written: {reason}; choose another"
        job = Job(tmp_path / "run", JAX_PLATFORMS="none")
        assert job.wait() == [1] and "Unable to initialize backend" in job.output()

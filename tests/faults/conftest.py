"""What the tests of faults compare with."""

import pytest

from tests.faults.harness import Job


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """The workdir of the run that nothing happened to."""
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    job = Job(workdir)
    assert job.wait() == [0], job.output()
    return workdir


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """The workdir of a run of two processes that nothing happened to."""
    workdir = tmp_path_factory.mktemp("pair") / "run"
    job = Job(workdir, processes=2)
    assert job.wait() == [0, 0], job.output()
    return workdir

"""The description of a job and its arguments."""

import argparse
import datetime
import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.job import Job, JobError, add_arguments, make_job, parse_time, split

TRAIN = ["--config", "configs/emoji.py:smoke", "--workdir", "runs/My Run_2"]


def parse(line, train=TRAIN):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return make_job(parser.parse_args(shlex.split(line)), train)


def test_all_arguments():
    job = parse("-n 4 --chips 8 --env A=b=c --env D= --mount gs://b/x:/data --image i --restarts 3 --time 1d12h")
    assert job == Job(
        train=tuple(TRAIN),
        name="my-run-2",
        hosts=4,
        chips=8,
        env={"A": "b=c", "D": ""},
        mounts=("gs://b/x:/data",),
        image="i",
        restarts=3,
        time=datetime.timedelta(hours=36),
    )
    assert job.command("py") == ["py", "-m", "bigcl.train", *TRAIN] and job.workdir == "runs/My Run_2"
    assert job.environment() == {"BIGCL_DEVICES": "8", "A": "b=c", "D": ""}


@settings(deadline=None)
@given(st.text(min_size=1).filter(lambda text: "\0" not in text and "://" not in text))
def test_every_workdir_gives_a_name(workdir):
    assert parse("", ["--config=c", f"--workdir={workdir}"]).name


@given(st.lists(st.text()), st.lists(st.text()))
def test_only_the_first_dashes_split(own, train):
    own = [word for word in own if word != "--"]
    assert split([*own, "--", *train]) == (own, tuple(train))
    assert split(own) == (own, ())


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99))
def test_times(days, hours, minutes):
    assert parse_time(f"{days}d{hours}h{minutes}m") == datetime.timedelta(days=days, hours=hours, minutes=minutes)


@pytest.mark.parametrize("text", ["", "90", "h", "1h1d", "-1h", "1.5h"])
def test_other_times_are_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="90m"):
        parse_time(text)


@pytest.mark.parametrize(
    "line, train, message",
    [
        ("-n 0", TRAIN, "--hosts 0: expected 1"),
        ("--name Bad", TRAIN, "--name 'Bad'"),
        ("--mount data", TRAIN, "SOURCE:TARGET"),
        ("--env 1A=b", TRAIN, "no name of a variable"),
        ("", ["--config", "c"], "needs --workdir"),
    ],
)
def test_what_no_back_end_could_run(line, train, message):
    with pytest.raises(JobError, match=message):
        parse(line, train)

"""What a job is, whatever runs it: the arguments of bigcl.train, and what they run on."""

import argparse
import dataclasses
import datetime
import pathlib
import re
from collections.abc import Mapping, Sequence

ROOT = pathlib.Path(__file__).parents[1]

Arguments = tuple[str, ...]


class JobError(ValueError):
    """A description that no back end could run."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One training job.

    train: arguments of bigcl.train: `--config FILE`, `--workdir FOLDER`, and overrides `--config.KEY=VALUE`.
    hosts: machines, with one process each; on one machine, processes.
    chips: devices of each process, which refuses to start with others; 0: what there is.
    env: variables of each process.
    mounts: `SOURCE:TARGET` folders of the container.
    image: the container; None where the back end needs none and the code runs as it lies here.
    restarts: how often it may crash and go on from its last checkpoint. Preemptions do not count.
    time: the longest that it may take; None: as long as the back end allows.
    """

    train: Arguments
    name: str = "bigcl"
    hosts: int = 1
    chips: int = 0
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    mounts: tuple[str, ...] = ()
    image: str | None = None
    restarts: int = 0
    time: datetime.timedelta | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", self.name):
            raise JobError(
                f"--name {self.name!r}: lower-case letters, digits and '-', at most 40, starting with a letter"
            )
        for key, least in (("hosts", 1), ("chips", 0), ("restarts", 0)):
            if getattr(self, key) < least:
                raise JobError(f"--{key} {getattr(self, key)}: expected {least} or more")
        for key in self.env:
            if not re.fullmatch(r"[A-Za-z_]\w*", key):
                raise JobError(f"--env {key!r}: no name of a variable")
        for mount in self.mounts:
            if not re.fullmatch(r"[^:]+(://[^:]+)?:/[^:]*", mount):
                raise JobError(f"--mount {mount!r}: expected SOURCE:TARGET with an absolute TARGET, as /data:/data")
        for flag in ("config", "workdir"):
            if self.flag(flag) is None:
                raise JobError(
                    f"after --, bigcl.train needs --{flag}: -- --config configs/emoji.py --workdir runs/emoji"
                )
        if "://" in self.workdir:
            raise JobError(f"--workdir {self.workdir}: expected a folder, as /gcs/runs/a with --mount gs://BUCKET:/gcs")

    def flag(self, name: str) -> str | None:
        """The value of `--name VALUE` or `--name=VALUE` of bigcl.train."""
        return read_flag(self.train, name)

    @property
    def workdir(self) -> str:
        """Where the run lives, as the processes see it."""
        return self.flag("workdir") or ""

    def command(self, python: str = "python") -> list[str]:
        """What each process runs."""
        return [python, "-m", "bigcl.train", *self.train]

    def environment(self) -> dict[str, str]:
        """The variables of each process, with the promise of its devices that bigcl.host holds it to."""
        return {**({"BIGCL_DEVICES": str(self.chips)} if self.chips else {}), **self.env}


def read_flag(arguments: Sequence[str], name: str) -> str | None:
    """The value of the last `--name VALUE` or `--name=VALUE`."""
    found = None
    for i, argument in enumerate(arguments):
        if argument == f"--{name}" and i + 1 < len(arguments):
            found = arguments[i + 1]
        elif argument.startswith(f"--{name}="):
            found = argument.partition("=")[2]
    return found


def split(argv: Sequence[str]) -> tuple[list[str], Arguments]:
    """A launcher's own arguments, and those after the first `--`."""
    end = argv.index("--") if "--" in argv else len(argv)
    return list(argv[:end]), tuple(argv[end + 1 :])


def parse_time(text: str) -> datetime.timedelta:
    """`90m`, `12h`, `2d`, or a sum as `1d12h`."""
    found = re.fullmatch(r"(?=.)(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a time as 90m, 12h, 2d or 1d12h")
    days, hours, minutes = (int(group or 0) for group in found.groups())
    return datetime.timedelta(days=days, hours=hours, minutes=minutes)


def parse_variable(text: str) -> tuple[str, str]:
    """`NAME=VALUE`."""
    name, given, value = text.partition("=")
    if not given:
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=VALUE")
    return name, value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that all back ends share."""
    parser.add_argument("--name", help="of the job; by default that of its workdir")
    parser.add_argument("-n", "--hosts", type=int, default=1, help="machines (on one machine: processes); default 1")
    parser.add_argument("--chips", type=int, default=0, help="devices of each; it refuses to start with others")
    parser.add_argument("--env", type=parse_variable, action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--mount", action="append", default=[], metavar="SOURCE:TARGET", help="for the container")
    parser.add_argument("--image", help="the container to run in")
    parser.add_argument("--restarts", type=int, default=0, help="crashes to go on from; preemptions do not count")
    parser.add_argument("--time", type=parse_time, help="the longest it may take: 90m, 12h, 2d")


def make_job(args: argparse.Namespace, train: Sequence[str]) -> Job:
    """The job of parsed arguments."""
    workdir = pathlib.PurePosixPath(read_flag(train, "workdir") or "bigcl").name
    name = args.name or re.sub(r"[^a-z0-9]+", "-", workdir.lower()).strip("-")[:40].strip("-") or "bigcl"
    return Job(
        train=tuple(train),
        name=name if args.name or name[0].isalpha() else f"run-{name}"[:40].strip("-"),
        hosts=args.hosts,
        chips=args.chips,
        env=dict(args.env),
        mounts=tuple(args.mount),
        image=args.image,
        restarts=args.restarts,
        time=args.time,
    )

"""Runs all members of a sweep: `python -m launch.sweep configs/sweeps/emoji_lr.py --on local --parallel 2`.

A sweep file has `get_config(arg)` as any config, and `sweep(add)`, which calls `add({"optim.lr": 1e-3, ...})` for each
member. Members live in WORKDIR/<overrides>. The same command again goes on with those that are not finished, failed
ones included; --status lists them all; --only NAME runs one. What follows `--` goes to bigcl.train for every member.

--search N lets Optuna choose N members on this machine. The file then has `suggest(trial)`, which returns overrides, as
{"optim.lr": trial.suggest_float("lr", 1e-4, 1e-1, log=True)}; what is best is the config's `checkpoint.best`.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import re
import runpy
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # `python launch/sweep.py` finds both packages as well

from bigcl.files import replacing
from bigcl.host import end_with_reader
from bigcl.log import read_rows
from launch import local, slurm
from launch.job import Arguments, Job, JobError, make_job, split

Value = bool | int | float | str

LOG = "log.txt"
"""What a member that was run on this machine has printed."""


@dataclasses.dataclass(frozen=True)
class Member:
    """One run of a sweep.

    overrides: values by key of the config.  workdir: of its own.
    """

    name: str
    overrides: Mapping[str, Value]
    workdir: pathlib.Path

    def arguments(self) -> Arguments:
        """What bigcl.train gets beside what all members get."""
        return (f"--workdir={self.workdir}", *(f"--config.{k}={v}" for k, v in self.overrides.items()))

    def last(self) -> dict[str, Any]:
        """The last row of its log; nothing of step 0 if there is none."""
        return (read_rows(self.workdir / "metrics.jsonl") or [{"step": 0}])[-1]

    def config(self) -> dict[str, Any] | None:
        """What it was resolved to, once it has begun."""
        path = self.workdir / "config.json"
        return json.loads(path.read_text()) if path.exists() else None

    def progress(self) -> tuple[int, int]:
        """The last step that was logged, and the planned steps (0: it has not begun)."""
        config = self.config()
        return (self.last()["step"], config["train"]["steps"]) if config else (0, 0)

    def finished(self) -> bool:
        """Whether it was trained to the end, and evaluated there."""
        config, last = self.config(), self.last()
        if config is None or last["step"] < config["train"]["steps"]:
            return False
        return all(any(key.startswith(f"eval/{name}/") for key in last) for name in config["evals"])

    def score(self) -> float | None:
        """The last value of the config's `checkpoint.best`, with its sign changed if the lowest is best; None if the
        member is not finished."""
        config = self.config()
        if config is None or not self.finished():
            return None
        options = config["checkpoint"]
        if options["best"] is None:
            raise JobError("--search: the config has no checkpoint.best, so that nothing says which member is better")
        values = [v for row in read_rows(self.workdir / "metrics.jsonl") if (v := row.get(options["best"])) is not None]
        if not values:
            return None
        return float(values[-1]) * (1 if options["best_is"] == "highest" else -1)


def read_sweep(file: str, workdir: pathlib.Path) -> list[Member]:
    """The members that `sweep(add)` of a file adds, in its order. Raises JobError for two of one name."""
    path = pathlib.Path(file.partition(":")[0])
    if not path.is_file():
        raise JobError(f"no file {path}")
    sys.path.insert(0, str(pathlib.Path.cwd()))  # a sweep imports the configs that it varies, as bigcl.train does
    space = runpy.run_path(str(path))
    if not {"sweep", "get_config"} <= space.keys():
        raise JobError(f"{path}: expected get_config(arg) and sweep(add)")
    added: list[dict[str, Value]] = []
    space["sweep"](lambda overrides: added.append(dict(overrides)))
    for overrides in added:
        for key, value in overrides.items():
            if not isinstance(value, bool | int | float | str):
                raise JobError(f"{path}: {key} = {value!r}; expected a number, text, True or False")
    names = member_names(added)
    if twice := {name for name in names if names.count(name) > 1}:
        raise JobError(f"{path}: added twice: {', '.join(sorted(twice))}")
    if not added:
        raise JobError(f"{path}: sweep(add) adds nothing")
    return [Member(name, o, workdir / name) for name, o in zip(names, added, strict=True)]


def member_names(added: Sequence[Mapping[str, Value]]) -> list[str]:
    """Names for folders: `lr=0.01,weight_decay=0.1`, with as much of each key as tells it from the others."""
    keys = list(dict.fromkeys(key for overrides in added for key in overrides))
    short = {}
    for key in keys:
        parts = key.split(".")
        tails = [".".join(parts[-n:]) for n in range(1, len(parts) + 1)]
        short[key] = next(t for t in tails if t == key or not any(k != key and k.endswith(f".{t}") for k in keys))
    return [
        re.sub(r"[^\w.=,+-]", "-", ",".join(f"{short[k]}={v}" for k, v in o.items()))[:200] or "default" for o in added
    ]


def save_sweep(members: Sequence[Member], file: str, workdir: pathlib.Path) -> None:
    """Writes `sweep.json`, from which the report reads what was varied. Earlier members stay in it."""
    path = workdir / "sweep.json"
    workdir.mkdir(parents=True, exist_ok=True)
    known = json.loads(path.read_text())["members"] if path.exists() else {}
    with replacing(path) as partial:
        content = {"sweep": file, "members": {**known, **{m.name: dict(m.overrides) for m in members}}}
        partial.write_text(json.dumps(content, indent=2) + "\n")


def run_local(members: Sequence[Member], job: Job, parallel: int) -> bool:
    """Runs members on this machine, `parallel` at a time, each with its share of the GPUs and its output in `LOG`.
    After Ctrl-C the running ones save, and no other begins; False then."""
    shares = local.share_devices(parallel, 0, {**os.environ, **job.env}) if parallel > 1 else [{}]
    own = [f"--hosts={job.hosts}", f"--chips={job.chips}", f"--restarts={job.restarts}", f"--name={job.name}"]
    own += [f"--env={k}={v}" for k, v in job.env.items()]
    waiting = list(members)
    running: dict[int, tuple[Member, subprocess.Popen[bytes]]] = {}
    stopping = False

    def stop(number: int, frame: Any) -> None:
        nonlocal stopping
        stopping = True
        for _, process in running.values():
            process.send_signal(number)

    previous = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        while running or (waiting and not stopping):
            for slot in set(range(parallel)) - running.keys() if not stopping else ():
                if waiting:
                    member = waiting.pop(0)
                    print(f"launch: {member.name}", flush=True)
                    share = [f"--env={k}={v}" for k, v in shares[slot % len(shares)].items()]
                    running[slot] = member, start_local(member, job, [*own, *share])
            for slot in [slot for slot, (_, process) in running.items() if process.poll() is not None]:
                member, process = running.pop(slot)
                if process.returncode:
                    told = f"ended with status {process.returncode}, see {member.workdir / LOG}"
                    print(f"launch: {member.name} {told}", flush=True)
            time.sleep(0.2)
    finally:
        for s, handler in previous.items():
            signal.signal(s, handler)
        for _, process in running.values():
            process.kill()
    return not stopping


def start_local(member: Member, job: Job, own: Sequence[str]) -> "subprocess.Popen[bytes]":
    """Starts one member by the local back end."""
    member.workdir.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(pathlib.Path(local.__file__)), *own, "--", *job.train, *member.arguments()]
    with (member.workdir / LOG).open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)


def search(file: str, job: Job, workdir: pathlib.Path, trials: int, parallel: int) -> list[Member]:
    """Members that Optuna chooses by what came of those before, `parallel` at a time, and runs on this machine. Its
    sampler has a seed, so that the same command meets the members that are there already, and goes on after them."""
    try:
        import optuna
    except ImportError as error:
        raise JobError('--search needs Optuna: pip install "bigcl[sweep]"') from error
    suggest = runpy.run_path(file.partition(":")[0]).get("suggest")
    if suggest is None:
        raise JobError(f"{file}: --search expects suggest(trial), which returns overrides")
    sampler = optuna.samplers.TPESampler(seed=0, constant_liar=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    members: list[Member] = []
    while len(members) < trials:
        asked = [study.ask() for _ in range(min(parallel, trials - len(members)))]
        added = [dict(suggest(trial)) for trial in asked]
        chosen = [Member(name, o, workdir / name) for name, o in zip(member_names(added), added, strict=True)]
        save_sweep(chosen, file, workdir)
        members += chosen
        if not run_local([m for m in chosen if not m.finished()], job, parallel):
            break
        for trial, member in zip(asked, chosen, strict=True):
            value = member.score()
            study.tell(trial, value, state=optuna.trial.TrialState.FAIL if value is None else None)
    return members


def run_slurm(members: Sequence[Member], job: Job, args: argparse.Namespace) -> None:
    """Submits members as one array, unless an array of this name is in the queue."""
    script = slurm.batch_script(job, slurm.make_slurm(args), [m.arguments() for m in members], args.parallel)
    if args.dry_run:
        print(script)
        return
    queued = subprocess.run(["squeue", "--me", "--noheader", f"--name={job.name}"], capture_output=True, text=True)
    if queued.stdout.strip():
        raise JobError(f"{job.name} is in the queue already:\n{queued.stdout.rstrip()}")
    print(f"launch: {len(members)} runs, array job {slurm.submit(script)}")


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, Arguments]:
    """The arguments of this command and of bigcl.train."""
    parser = argparse.ArgumentParser(
        prog="python -m launch.sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", help="a sweep file; its argument follows a colon: configs/sweeps/emoji_lr.py:smoke")
    parser.add_argument("--on", choices=("local", "slurm"), default="local")
    parser.add_argument("--parallel", type=int, default=1, help="runs at a time")
    parser.add_argument("--workdir", type=pathlib.Path, help="of the sweep; default runs/<name of the file>")
    parser.add_argument("--only", help="the name of one member")
    parser.add_argument("--search", type=int, metavar="N", help="let Optuna choose N members")
    parser.add_argument("--status", action="store_true", help="list the members and do nothing")
    slurm.add_slurm_arguments(parser)
    own, train = split(argv)
    return parser.parse_args(own), train


def main(argv: Sequence[str]) -> int:
    """Runs what is not finished; 0 if all went well."""
    args, train = parse(argv)
    workdir = args.workdir or pathlib.Path("runs") / pathlib.Path(args.sweep.partition(":")[0]).stem
    try:
        if args.search:
            if args.on != "local" or args.dry_run or args.status or args.only:
                raise JobError("--search runs on this machine, all of it: leave out --on, --only, --status, --dry-run")
            job = make_job(args, ("--config", args.sweep, "--workdir", str(workdir), *train))
            return summary(search(args.sweep, job, workdir, args.search, args.parallel))
        members = read_sweep(args.sweep, workdir)
        if args.only and args.only not in [m.name for m in members]:
            raise JobError(f"--only {args.only}: the members are {', '.join(m.name for m in members)}")
        if args.parallel < 1:
            raise JobError(f"--parallel {args.parallel}: expected 1 or more")
        job = make_job(args, ("--config", args.sweep, "--workdir", str(workdir), *train))
        left = [m for m in members if not m.finished() and args.only in (None, m.name)]
        if not args.status and not args.dry_run and left:
            save_sweep(members, args.sweep, workdir)
        if args.status or not left:
            pass
        elif args.on == "slurm":
            run_slurm(left, job, args)
            return 0
        elif args.dry_run:
            print("\n".join(shlex.join([*job.command(), *m.arguments()]) for m in left))
            return 0
        else:
            run_local(left, job, args.parallel)
        return summary(members)
    except JobError as error:
        sys.exit(f"error: {error}")


def summary(members: Sequence[Member]) -> int:
    """Lists the members and where those that are not finished left their log; 1 if there are such."""
    for member in members:
        step, steps = member.progress()
        state = "finished" if member.finished() else f"step {step} of {steps}" if steps else "not begun"
        log = member.workdir / LOG
        print(f"  {state:<20}{member.name}" + (f"    {log}" if log.exists() and not member.finished() else ""))
    left = sum(not m.finished() for m in members)
    if left:
        print(f"{left} of {len(members)} not finished; the same command goes on with them")
    return int(left > 0)


if __name__ == "__main__":
    end_with_reader()
    sys.exit(main(sys.argv[1:]))

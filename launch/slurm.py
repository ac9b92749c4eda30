"""Runs a job on Slurm: `python launch/slurm.py submit -n 8 --chips 8 --time 24h -- --config ... --workdir ...`.

submit   writes the batch script beside the run, submits it, and prints the job's number; --dry-run prints the script
logs     follows what a job prints
status   tells of a job, or of all of yours
cancel   ends a job for good

A preempted job, one whose node died, and one that reaches its time limit save and go back into the queue.
"""

import argparse
import dataclasses
import datetime
import pathlib
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # `python launch/slurm.py` finds both packages as well

from bigcl.host import REQUEUE, end_with_reader
from launch.job import ROOT, Arguments, Job, JobError, add_arguments, make_job, split


@dataclasses.dataclass(frozen=True)
class Slurm:
    """What Slurm needs to know beyond the job.

    options: further options of sbatch, as `--partition=a100`.
    notice: seconds before the time limit at which the run is asked to save.
    runtime: what runs the image, "pyxis" or "apptainer".
    setup: a shell line before the run, as `module load cuda`.
    python: the interpreter on the nodes.
    """

    options: tuple[str, ...] = ()
    notice: int = 120
    runtime: str = "pyxis"
    setup: str = ""
    python: str = sys.executable


def batch_script(job: Job, slurm: Slurm, members: Sequence[Arguments] = (), parallel: int | None = None) -> str:
    """The batch script of a job, or of an array with one element for each member's further arguments.

    One task a node drives all its devices: JAX would take one device a task under Slurm unless told which.
    A crash starts all tasks again inside the allocation; the status `requeue` and the notice before the time limit put
    the job back into the queue, but only while Slurm counts it as running: one that is being cancelled stays cancelled,
    one that is preempted is requeued by Slurm itself.
    """
    on_cpu = job.env.get("JAX_PLATFORMS") == "cpu"
    directives = {
        "job-name": job.name,
        "nodes": job.hosts,
        "ntasks-per-node": 1,
        "gpus-per-node": None if on_cpu else job.chips or None,
        "time": minutes(job.time) if job.time else None,
        "requeue": True,
        "open-mode": "append",
        "signal": f"B:USR1@{slurm.notice}",
        "output": f"{job.workdir}/slurm-{'%A_%a' if members else '%j'}.log",
        "array": f"0-{len(members) - 1}" + (f"%{parallel}" if parallel else "") if members else None,
    }
    env = dict(job.environment())
    if job.chips and on_cpu:
        env["JAX_NUM_CPU_DEVICES"] = str(job.chips)
    elif job.chips:
        env["JAX_LOCAL_DEVICE_IDS"] = ",".join(map(str, range(job.chips)))
    lines = ["#!/bin/bash"]
    for key, value in directives.items():
        if value is not None:
            lines.append(f"#SBATCH --{key}" if value is True else f"#SBATCH --{key}={value}")
    lines += [f"#SBATCH {option}" for option in slurm.options]
    lines += ["", *([slurm.setup] if slurm.setup else []), *(f"export {k}={shlex.quote(v)}" for k, v in env.items())]
    if not job.image:
        lines += [f"export PYTHONPATH={shlex.quote(str(ROOT))}${{PYTHONPATH:+:$PYTHONPATH}}"]
    lines += ["member=()"]
    if members:
        lines += ["case $SLURM_ARRAY_TASK_ID in"]
        lines += [f"  {i}) member=({shlex.join(member)}) ;;" for i, member in enumerate(members)]
        lines += ["esac"]
    command = (
        f'{container(job, slurm)}{shlex.join(job.command("python" if job.image else slurm.python))} "${{member[@]}}"'
    )
    return "\n".join(lines) + LOOP.format(command=command, restarts=job.restarts, requeue=REQUEUE)


LOOP = """
caught= notice=
job=${{SLURM_ARRAY_JOB_ID:+${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID}}
job=${{job:-$SLURM_JOB_ID}}  # which of one element may be that of the whole array
trap 'caught=1 notice=1; scancel --signal=TERM "$job"' USR1  # the time limit is near: all tasks save and stop
trap caught=1 TERM  # Slurm tells the tasks itself
running() {{ [[ $(squeue --noheader --jobs="$job" --states=running --format=%A) ]]; }}

for ((crashes = 1; ; crashes++)); do
  srun --kill-on-bad-exit=0 --wait=300 {command} &
  step=$!
  wait $step; status=$?
  while [[ $caught ]]; do caught=; wait $step; status=$?; done  # a trap had ended the wait
  if [[ $status == 0 ]]; then exit 0; fi
  if ! running; then exit "$status"; fi
  if [[ $status == {requeue} || $notice ]]; then scontrol requeue "$job"; exit {requeue}; fi
  echo "launch: crash $crashes with status $status, {restarts} may be restarted" >&2
  if ((crashes > {restarts})); then exit "$status"; fi
done
"""


def container(job: Job, slurm: Slurm) -> str:
    """What stands before the command for it to run in the job's image."""
    if not job.image:
        return ""
    if slurm.runtime == "pyxis":
        mounts = [f"--container-mounts={','.join(job.mounts)}"] if job.mounts else []
        return shlex.join([f"--container-image={job.image}", *mounts]) + " "
    binds = [part for mount in job.mounts for part in ("--bind", mount)]
    return shlex.join(["apptainer", "exec", *(["--nv"] if job.chips else []), *binds, job.image]) + " "


def minutes(time: datetime.timedelta) -> int:
    """A time limit as Slurm reads a plain number: in minutes."""
    return max(1, round(time.total_seconds() / 60))


def submit(script: str) -> str:
    """Submits a script and returns the number of the job. The folder of its log is made: Slurm would lose the log."""
    output = re.search(r"^#SBATCH --output=(.*)$", script, re.MULTILINE)
    folder = pathlib.Path(output[1] if output else ".").parent
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "slurm.sh").write_text(script)
    done = subprocess.run(["sbatch", "--parsable"], input=script, capture_output=True, text=True, check=False)
    if done.returncode:
        raise JobError(f"sbatch refused the script: {done.stderr.strip()}")
    return done.stdout.strip().partition(";")[0]


def log_file(job_id: str) -> str:
    """Where a job writes."""
    shown = subprocess.run(["scontrol", "show", "job", "-o", job_id], capture_output=True, text=True, check=False)
    found = re.search(r"StdOut=(\S+)", shown.stdout)
    if not found:
        raise JobError(
            f"job {job_id}: Slurm knows no such job (any more); its log is slurm-{job_id}.log in the workdir"
        )
    return found[1]


def follow(job_id: str) -> int:
    """Prints the log of a job, and what comes, until interrupted."""
    try:
        return subprocess.call(["tail", "-n", "200", "-F", log_file(job_id)])
    except KeyboardInterrupt:
        return 0


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, Arguments]:
    """The arguments of this command and of bigcl.train."""
    parser = argparse.ArgumentParser(
        prog="launch/slurm.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="do", required=True)
    add_slurm_arguments(commands.add_parser("submit", help="submit a job"))
    for name in ("logs", "cancel"):
        commands.add_parser(name).add_argument("job")
    commands.add_parser("status").add_argument("job", nargs="?")
    own, train = split(argv)
    return parser.parse_args(own), train


def add_slurm_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `Slurm`, beside those of the job."""
    add_arguments(parser)
    parser.add_argument("--sbatch", action="append", default=[], metavar="OPTION", help="as --sbatch=--partition=a100")
    parser.add_argument("--notice", type=int, default=120, help="seconds before the time limit at which it saves")
    parser.add_argument("--runtime", choices=("pyxis", "apptainer"), default="pyxis", help="what runs the --image")
    parser.add_argument("--setup", default="", help="a shell line before the run, as 'module load cuda'")
    parser.add_argument("--python", default=sys.executable, help="the interpreter on the nodes")
    parser.add_argument("--dry-run", action="store_true", help="print the script and do nothing")


def make_slurm(args: argparse.Namespace) -> Slurm:
    """What the arguments of `add_slurm_arguments` say."""
    return Slurm(tuple(args.sbatch), args.notice, args.runtime, args.setup, args.python)


def main(argv: Sequence[str]) -> int:
    """Does one of the commands."""
    args, train = parse(argv)
    try:
        if args.do == "submit":
            script = batch_script(make_job(args, train), make_slurm(args))
            print(script if args.dry_run else submit(script))
            return 0
        if args.do == "logs":
            return follow(args.job)
        if args.do == "cancel":
            return subprocess.call(["scancel", args.job])
        which = ["-j", args.job] if args.job else ["--me"]
        return subprocess.call(["squeue", *which, "-o", "%.18i %.24j %.10T %.12M %.12l %.5D %R"])
    except JobError as error:
        sys.exit(f"error: {error}")
    except FileNotFoundError as error:
        sys.exit(f"error: {error.filename} is not installed here: run this where Slurm's commands are")


if __name__ == "__main__":
    end_with_reader()
    sys.exit(main(sys.argv[1:]))

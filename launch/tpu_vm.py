"""Runs a job on Cloud TPU VMs through gcloud, from a queued resource to the last step:

    python launch/tpu_vm.py run my-run --zone us-east5-b --type v6e-16 --runtime v2-alpha-tpuv6e --spot \\
        --mount gs://bucket:/gcs -- --config configs/siglip.py:data=gs://bucket/pairs --workdir /gcs/runs/a

run      creates the slice, copies the code, installs, starts all hosts, and watches: a slice that was taken away is
         created again, and the run goes on from its last checkpoint; --dry-run prints every command
logs     follows what all hosts print; with --to FOLDER, copies it
stop     asks all hosts to save and stop
status   tells what the slice and each host are doing
delete   gives the slice back

Run it again after an interruption: it takes up what is there.
"""

import argparse
import dataclasses
import json
import pathlib
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # `python launch/tpu_vm.py` finds both packages as well

from bigcl.host import REQUEUE, end_with_reader
from launch.bucket import mount_command
from launch.job import ROOT, Arguments, Job, JobError, add_arguments, make_job, split

COMING = ("ACCEPTED", "WAITING_FOR_RESOURCES", "CREATING", "PROVISIONING")
"""States of a queued resource that may still become ACTIVE."""

SETUP = 'cd ~/bigcl-job && python3 -m venv --system-site-packages venv && venv/bin/pip install -q -U -e code "jax[tpu]"'

STOP = 'cd ~/bigcl-job && if kill -0 "$(cat pid)"; then kill -TERM "$(cat pid)"; fi'

WATCH = 30.0
"""Seconds between two looks at a slice."""

LOOKS = 20
"""So many looks in a row may fail before it is given up to watch, which ends nothing on the hosts."""

WORKER = """#!/bin/bash
# Trains on this host until it is done, was stopped, or has crashed too often. All hosts of the job run this at once:
# when one crashes the others do too, and all meet again at the start. It leaves in `status` how it ended.
{exports}
stop= caught=
trap 'stop=1 caught=1; kill -TERM $child 2>/dev/null' TERM INT
echo $$ >{folder}/pid
echo running >{folder}/status
for ((crashes = 0; crashes <= {restarts};)); do
  {command} &
  child=$!
  wait $child; status=$?
  while [[ $caught ]]; do caught=; wait $child; status=$?; done  # the trap had ended the wait
  if [[ $status == 0 || $stop ]]; then break; fi
  if [[ $status == {timeout} ]]; then break; fi
  if [[ $status != {requeue} ]]; then
    ((crashes++))
    echo "launch: crash $crashes with status $status, {restarts} may be restarted"
  fi
done
echo "ended $status" >{folder}/status
exit "$status"
"""

TIMEOUT = 124
"""How `timeout` says that the time was up."""


def worker_script(job: Job, python: str = '"$HOME"/bigcl-job/venv/bin/python', folder: str = "~/bigcl-job") -> str:
    """What each host runs. `python` and `folder` stand in the script as they are, for the shell to read."""
    limit = int(job.time.total_seconds()) if job.time else 0
    command = f"{python} {shlex.join(job.command()[1:])}"
    if limit:  # of all attempts together
        command = f"timeout --signal=TERM --kill-after=300 $(({limit} > SECONDS ? {limit} - SECONDS : 1)) {command}"
    return WORKER.format(
        exports="\n".join(f"export {k}={shlex.quote(v)}" for k, v in job.environment().items()),
        command=command,
        folder=folder,
        restarts=job.restarts,
        requeue=REQUEUE,
        timeout=TIMEOUT,
    )


@dataclasses.dataclass(frozen=True)
class Slice:
    """A TPU slice as gcloud knows it, under one name as queued resource and as node.

    type: as "v6e-16".  runtime: the image of its VMs, as "v2-alpha-tpuv6e".  spot: it may be taken away.
    dry_run: commands are printed and not run; what they would answer is taken to be good news.
    """

    name: str
    zone: str
    project: str | None = None
    type: str = ""
    runtime: str = ""
    spot: bool = False
    dry_run: bool = False

    def gcloud(self, *words: str, live: bool = False) -> str:
        """Runs `gcloud compute tpus ...` and returns what it prints, or lets it through if `live`. Raises JobError with
        its complaint."""
        where = [f"--zone={self.zone}", *([f"--project={self.project}"] if self.project else [])]
        command = ["gcloud", "compute", "tpus", *words, *where]
        if self.dry_run:
            print(shlex.join(command))
            return ""
        done = subprocess.run(command, text=True, check=False, capture_output=not live)
        if done.returncode:
            raise JobError(f"{shlex.join(command)}: {(done.stderr or '').strip()}")
        return done.stdout or ""

    def ssh(self, command: str, worker: str = "all", live: bool = False) -> str:
        """Runs a shell command on the hosts."""
        return self.gcloud("tpu-vm", "ssh", self.name, f"--worker={worker}", f"--command={command}", live=live)

    def state(self) -> str:
        """Of the queued resource, or "ABSENT"."""
        try:
            shown = self.gcloud("queued-resources", "describe", self.name, "--format=value(state.state)").strip()
        except JobError as error:
            if "NOT_FOUND" in str(error):
                return "ABSENT"
            raise
        return shown or "ABSENT"

    def create(self) -> None:
        """Queues the request, and waits until the slice is there."""
        self.gcloud(
            *("queued-resources", "create", self.name, f"--node-id={self.name}"),
            *(f"--accelerator-type={self.type}", f"--runtime-version={self.runtime}"),
            *(["--spot"] if self.spot else []),
        )
        while not self.dry_run and (state := self.state()) != "ACTIVE":
            if state not in COMING:
                raise JobError(
                    f"{self.name}: the queued resource is {state}; see `gcloud compute tpus queued-resources`"
                )
            print(f"launch: {self.name} is {state}", file=sys.stderr, flush=True)
            time.sleep(WATCH)

    def delete(self) -> None:
        """Gives the slice back."""
        self.gcloud("queued-resources", "delete", self.name, "--force", "--quiet")

    def start(self, job: Job) -> None:
        """Copies the code as it is here, installs it, and starts all hosts."""
        with tempfile.TemporaryDirectory() as scratch:
            code, worker = pathlib.Path(scratch) / "code.tar.gz", pathlib.Path(scratch) / "worker.sh"
            files = subprocess.run(
                ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                capture_output=True,
                check=True,
            ).stdout
            names = b"\0".join(n for n in files.split(b"\0") if n and (ROOT / n.decode()).is_file())
            subprocess.run(["tar", "-C", str(ROOT), "-czf", str(code), "--null", "-T", "-"], input=names, check=True)
            worker.write_text(worker_script(job))
            self.ssh("mkdir -p ~/bigcl-job/code")
            for file in (code, worker):
                self.gcloud("tpu-vm", "scp", str(file), f"{self.name}:bigcl-job/{file.name}", "--worker=all")
        self.ssh("tar -C ~/bigcl-job/code -xzf ~/bigcl-job/code.tar.gz")
        self.ssh(SETUP)
        for mount in job.mounts:
            self.ssh(mount_command(mount))
        self.ssh("cd ~/bigcl-job/code && nohup bash ../worker.sh >>../train.log 2>&1 </dev/null &")

    def hosts(self) -> int:
        """How many VMs the slice has."""
        if self.dry_run:
            return 1
        node = json.loads(self.gcloud("tpu-vm", "describe", self.name, "--format=json"))
        return len(node["networkEndpoints"])

    def statuses(self) -> list[str]:
        """The last word of each host's worker script: "absent", "running", or "ended STATUS"."""
        ask = "cat ~/bigcl-job/status 2>/dev/null || echo absent"
        return [self.ssh(ask, str(i)).strip() for i in range(self.hosts())]


def run(tpu: Slice, job: Job) -> int:
    """Trains to the end, through preemptions of the slice."""
    while True:
        state = "ABSENT" if tpu.dry_run else tpu.state()
        if state not in ("ACTIVE", "ABSENT", *COMING):
            print(f"launch: {tpu.name} is {state}; asking for a new one", file=sys.stderr, flush=True)
            tpu.delete()
            state = "ABSENT"
        if state == "ABSENT":
            tpu.create()
        try:
            if tpu.dry_run or "running" not in tpu.statuses():  # new, stopped or failed
                tpu.start(job)
            status = watch(tpu)
        except JobError:
            if tpu.state() == "ACTIVE":  # no preemption: gcloud's complaint stands
                raise
            continue
        if status is not None:
            return status


def watch(tpu: Slice) -> int | None:
    """Waits for the hosts: the status that all ended with (the first other than 0), or None if the slice is gone."""
    failures = 0
    while True:
        try:
            if not tpu.dry_run and tpu.state() != "ACTIVE":
                return None
            statuses, failures = tpu.statuses(), 0
        except JobError as error:  # of the network; or the hosts are gone, and the state does not say so yet
            failures += 1
            if failures == LOOKS:
                raise
            print(f"launch: {error}", file=sys.stderr, flush=True)
            time.sleep(WATCH)
            continue
        if tpu.dry_run:
            return 0
        if all(status.startswith("ended") for status in statuses):
            return next((n for n in (int(s.split()[1]) for s in statuses) if n), 0)
        time.sleep(WATCH)


def collect(tpu: Slice, folder: pathlib.Path) -> None:
    """Copies the log of each host to `folder/worker-N.log`."""
    logs = [tpu.ssh("cat ~/bigcl-job/train.log", str(i)) for i in range(tpu.hosts())]
    if tpu.dry_run:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for i, log in enumerate(logs):
        (folder / f"worker-{i}.log").write_text(log)


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, Arguments]:
    """The arguments of this command and of bigcl.train."""
    parser = argparse.ArgumentParser(
        prog="launch/tpu_vm.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="do", required=True)
    for name in ("run", "logs", "stop", "status", "delete"):
        command = commands.add_parser(name)
        command.add_argument("slice", help="name of the slice")
        command.add_argument("--zone", required=True)
        command.add_argument("--project")
        command.add_argument("--dry-run", action="store_true", help="print the commands and do nothing")
    commands.choices["logs"].add_argument("--to", type=pathlib.Path, help="copy them to this folder")
    add_arguments(commands.choices["run"])
    commands.choices["run"].add_argument("--type", required=True, help="of the slice: v6e-16")
    commands.choices["run"].add_argument("--runtime", required=True, help="image of its VMs: v2-alpha-tpuv6e")
    commands.choices["run"].add_argument("--spot", action="store_true", help="it may be taken away")
    own, train = split(argv)
    return parser.parse_args(own), train


def main(argv: Sequence[str]) -> int:
    """Does one of the commands."""
    args, train = parse(argv)
    tpu = Slice(args.slice, args.zone, args.project, dry_run=args.dry_run)
    try:
        if args.do == "run":
            job = make_job(args, train)
            if job.image:
                raise JobError("--image: no container is started on TPU VMs; the code runs as it lies here")
            for mount in job.mounts:
                mount_command(mount)  # what cannot be mounted is refused before anything is created
            return run(dataclasses.replace(tpu, type=args.type, runtime=args.runtime, spot=args.spot), job)
        if args.do == "logs" and args.to:
            collect(tpu, args.to)
        elif args.do == "logs":
            tpu.ssh("tail -n 200 -F ~/bigcl-job/train.log", live=True)
        elif args.do == "stop":
            tpu.ssh(STOP)
        elif args.do == "status":
            found = [tpu.state(), *tpu.statuses()]
            if not tpu.dry_run:
                print(*found, sep="\n")
        else:
            tpu.delete()
        return 0
    except JobError as error:
        sys.exit(f"error: {error}")
    except FileNotFoundError as error:
        sys.exit(f"error: {error.filename} is not installed here; --dry-run prints the commands")


if __name__ == "__main__":
    end_with_reader()
    sys.exit(main(sys.argv[1:]))

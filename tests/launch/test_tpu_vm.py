"""The TPU VM back end: the worker script is run for real, the commands of gcloud are read."""

import os
import shlex
import subprocess
import sys
import time

import pytest

from bigcl.host import REQUEUE
from launch import local, tpu_vm
from launch.job import ROOT, Job, JobError, parse_time

TRAIN = ("--config", "configs/a b.py", "--workdir", "/gcs/a")


def worker(tmp_path, program, **job):
    """A worker script whose interpreter is replaced by a shell script that counts its starts in `starts-N`."""
    python = tmp_path / "python"
    me = "${JAX_PROCESS_ID:-0}"
    python.write_text(
        f'#!/bin/bash\necho "$*" >>{tmp_path}/starts-{me}\nn=$(wc -l <{tmp_path}/starts-{me})\n{program}\n'
    )
    python.chmod(0o755)
    script = tmp_path / "worker.sh"
    script.write_text(tpu_vm.worker_script(Job(TRAIN, **job), shlex.quote(str(python)), f"{tmp_path}/host-{me}"))
    for i in range(2):
        (tmp_path / f"host-{i}").mkdir(exist_ok=True)
    return ["bash", str(script)]


def starts(tmp_path, i):
    return (tmp_path / f"starts-{i}").read_text().splitlines()


@pytest.mark.parametrize(
    "program, restarts, status, count",
    [
        ("exit 0", 0, 0, 1),
        (f"if ((n < 3)); then exit {REQUEUE}; fi", 0, 0, 3),
        ("if ((n < 3)); then exit 4; fi", 2, 0, 3),
        ("exit 4", 1, 4, 2),
    ],
)
def test_workers_start_again_under_the_local_back_end(tmp_path, program, restarts, status, count):
    command = worker(tmp_path, program, restarts=restarts, env={"NOTE": "it's"})
    assert local.run(command, local.environments(2, 0, {}), 0, grace=30) == status
    by_itself = [i for i in range(2) if (tmp_path / f"host-{i}" / "status").read_text() == f"ended {status}\n"]
    assert by_itself if status else by_itself == [0, 1]  # where one has failed, the other may be ended before it has
    for i in by_itself:
        assert starts(tmp_path, i) == ["-m bigcl.train --config configs/a b.py --workdir /gcs/a"] * count


def test_a_worker_asked_to_stop_lets_the_run_save(tmp_path):
    command = worker(
        tmp_path, f"trap 'echo saved >>{tmp_path}/saved; exit {REQUEUE}' TERM; sleep 600 & wait", restarts=5
    )
    process = subprocess.Popen(command, start_new_session=True)
    try:
        while not (tmp_path / "starts-0").exists():
            time.sleep(0.05)
        time.sleep(0.5)
        process.terminate()
        assert process.wait(timeout=60) == REQUEUE
    finally:
        os.killpg(process.pid, 9) if process.poll() is None else None
    assert (tmp_path / "saved").read_text() == "saved\n" and len(starts(tmp_path, 0)) == 1


def test_the_time_is_that_of_all_attempts(tmp_path):
    command = worker(tmp_path, "if ((n < 2)); then exit 75; fi; exec sleep 600", time=parse_time("1m"))
    text = (tmp_path / "worker.sh").read_text()
    assert "$((60 > SECONDS ? 60 - SECONDS : 1))" in text
    (tmp_path / "worker.sh").write_text(text.replace("60 >", "3 >").replace("60 -", "3 -"))
    assert subprocess.run(command).returncode == tpu_vm.TIMEOUT
    assert len(starts(tmp_path, 0)) == 2


def test_dry_run_shows_every_command_in_order():
    words = [
        "run",
        "my-run",
        "--zone",
        "z",
        "--project",
        "p",
        "--type",
        "v6e-16",
        "--runtime",
        "v2-alpha-tpuv6e",
        "--spot",
        "--mount=gs://bucket/x y:/gcs",
        "--dry-run",
        "--",
    ]
    done = subprocess.run(
        [sys.executable, "launch/tpu_vm.py", *words, *TRAIN], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    commands = [shlex.split(line) for line in done.stdout.splitlines()]
    assert all(c[:3] == ["gcloud", "compute", "tpus"] and {"--zone=z", "--project=p"} <= set(c) for c in commands)
    assert [c[4] for c in commands] == ["create", "ssh", "scp", "scp", "ssh", "ssh", "ssh", "ssh", "ssh"]
    assert {"--node-id=my-run", "--accelerator-type=v6e-16", "--runtime-version=v2-alpha-tpuv6e", "--spot"} <= set(
        commands[0]
    )
    assert all("--worker=all" in c for c in commands[1:-1])
    line = next(word for word in commands[6] if word.startswith("--command=")).removeprefix("--command=")
    assert subprocess.run(["bash", "-n", "-c", line]).returncode == 0
    assert "gcsfuse --implicit-dirs --rename-dir-limit=200000 '--only-dir=x y' bucket /gcs;" in line


@pytest.mark.parametrize(
    "words, message", [(["--image=i"], "no container"), (["--mount=/a:/b"], "buckets alone"), ([], "expected a folder")]
)
def test_what_a_slice_cannot_do_is_refused_before_it_is_asked_for(capsys, words, message):
    train = TRAIN if words else (*TRAIN, "--workdir=gs://bucket/a")
    with pytest.raises(SystemExit, match=message):
        tpu_vm.main(["run", "s", "--zone=z", "--type=v6e-8", "--runtime=r", "--dry-run", *words, "--", *train])
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    "do, words, commands",
    [
        ("logs", [], ["tpu-vm ssh s --worker=all --command='tail -n 200 -F ~/bigcl-job/train.log'"]),
        ("logs", ["--to"], ["tpu-vm ssh s --worker=0 --command='cat ~/bigcl-job/train.log'"]),
        ("stop", [], [f"tpu-vm ssh s --worker=all {shlex.quote(f'--command={tpu_vm.STOP}')}"]),
        (
            "status",
            [],
            [
                "queued-resources describe s '--format=value(state.state)'",
                "tpu-vm ssh s --worker=0 --command='cat ~/bigcl-job/status 2>/dev/null || echo absent'",
            ],
        ),
        ("delete", [], ["queued-resources delete s --force --quiet"]),
    ],
)
def test_dry_runs_of_what_follows_a_start(tmp_path, capsys, monkeypatch, do, words, commands):
    """Compared as a shell reads the lines, for there are several ways to quote. Nothing is run or written."""
    monkeypatch.setenv("PATH", str(tmp_path))  # without gcloud
    given = [*words, str(tmp_path / "logs")] if words else []
    assert tpu_vm.main([do, "s", "--zone=z", "--project=p", "--dry-run", *given]) == 0
    expected = [shlex.split(f"gcloud compute tpus {command} --zone=z --project=p") for command in commands]
    assert [shlex.split(line) for line in capsys.readouterr().out.splitlines()] == expected
    assert not list(tmp_path.iterdir())
    with pytest.raises(SystemExit, match="error: gcloud is not installed here; --dry-run prints the commands"):
        tpu_vm.main([do, "s", "--zone=z", *given])


def test_logs_are_copied_to_a_folder(tmp_path, monkeypatch):
    """By a program named gcloud that plays a slice of two hosts."""
    fake = tmp_path / "gcloud"
    fake.write_text("""#!/bin/bash
case "$*" in
  *" describe "*) echo '{"networkEndpoints": [1, 2]}' ;;
  *--worker=0*train.log*) echo "of the first" ;;
  *--worker=1*train.log*) echo "of the second" ;;
  *) exit 1 ;;
esac
""")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert tpu_vm.main(["logs", "s", "--zone=z", "--to", str(tmp_path / "logs")]) == 0
    found = {p.name: p.read_text() for p in (tmp_path / "logs").iterdir()}
    assert found == {"worker-0.log": "of the first\n", "worker-1.log": "of the second\n"}


def test_a_slice_that_was_taken_away_is_asked_for_again(tmp_path, monkeypatch):
    """Driven through a program named gcloud that plays a spot slice: it is taken away once, while the job runs."""
    monkeypatch.setattr(tpu_vm, "WATCH", 0.01)
    fake = tmp_path / "gcloud"
    fake.write_text(f"""#!/bin/bash
cd {tmp_path}
shift 2
echo "$1 $2" >>calls
case "$1 $2 $*" in
  "queued-resources describe"*) if [[ -e slice ]]; then cat slice; else echo "NOT_FOUND" >&2; exit 1; fi ;;
  "queued-resources create"*) echo ACTIVE >slice; rm -f status ;;
  "queued-resources delete"*) rm slice ;;
  "tpu-vm describe"*) echo '{{"networkEndpoints": [1, 2]}}' ;;
  *"cat ~/bigcl-job/status"*)
    if [[ ! -e status ]]; then echo absent
    elif [[ ! -e taken ]]; then touch taken; echo SUSPENDED >slice; echo running
    else echo ended 0; fi ;;
  *"nohup bash"*) touch status ;;
esac
""")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    tpu = tpu_vm.Slice("s", "z", type="v6e-8", runtime="r", spot=True)
    assert tpu_vm.run(tpu, Job(TRAIN)) == 0
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls.count("queued-resources create") == 2 and calls.count("queued-resources delete") == 1


STILL_THERE = """#!/bin/bash
cd {folder}
shift 2
echo "$1 $2 $*" >>calls
case "$*" in
  "queued-resources describe"*) echo ACTIVE ;;
  "tpu-vm describe"*) echo '{{"networkEndpoints": [1, 2]}}' ;;
  *"cat ~/bigcl-job/status"*) {look} ;;
  *"nohup bash"*) echo running >status ;;
esac
"""


def there(tmp_path, monkeypatch, status, look):
    """A slice that is there, played by a program named gcloud: `status` is what its hosts say at first, `look` what
    becomes of each look at them."""
    monkeypatch.setattr(tpu_vm, "WATCH", 0.01)
    fake = tmp_path / "gcloud"
    fake.write_text(STILL_THERE.format(folder=tmp_path, look=look))
    fake.chmod(0o755)
    (tmp_path / "status").write_text(status)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tpu_vm.Slice("s", "z", type="v6e-8", runtime="r")


ENDS = "cat status; [[ $(<status) == running ]] && echo ended 0 >status; true"
"""A run that ends well after the first look."""


@pytest.mark.parametrize("status, starts", [("running", 0), ("ended 75", 1), ("ended 1", 1), ("absent", 1)])
def test_the_same_command_takes_up_a_run_that_was_stopped_or_failed(tmp_path, monkeypatch, status, starts):
    assert tpu_vm.run(there(tmp_path, monkeypatch, status, ENDS), Job(TRAIN)) == 0
    calls = (tmp_path / "calls").read_text()
    assert calls.count("nohup bash") == starts and "create" not in calls and "delete" not in calls


def test_a_look_that_fails_is_tried_again(tmp_path, monkeypatch):
    """The network fails, or the hosts are gone before the slice says so; but not for ever."""
    times = "echo x >>looks; (($(wc -l <looks) {which})) && exit 255; {ends}"
    tpu = there(tmp_path, monkeypatch, "running", times.format(which="% 4 == 3", ends=ENDS))
    assert tpu_vm.watch(tpu) == 0
    tpu = there(tmp_path, monkeypatch, "running", "exit 255")
    with pytest.raises(JobError, match="tpu-vm ssh"):
        tpu_vm.watch(tpu)

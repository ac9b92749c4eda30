"""What stands still is named, with the stacks of all threads, and ends."""

import json
import pathlib
import socket
import subprocess
import sys
import time

import pytest

from bigcl.registry import ConfigError
from bigcl.train import run
from bigcl.watchdog import BEAT, STUCK, Deadlines, Watchdog

ROOT = pathlib.Path(__file__).parent.parent
PROGRAM = """
import pathlib, sys, threading, time
from bigcl.watchdog import Watchdog

def another_thread_waits():
    time.sleep(600)

def it_hangs_here():
    time.sleep(600)

threading.Thread(target=another_thread_waits, daemon=True).start()
with Watchdog(pathlib.Path(sys.argv[1]), 1, 3) as watchdog:
    watchdog.doing("something short", 600)
    watchdog.doing(sys.argv[2], 0.5)
    it_hangs_here()
"""


@pytest.mark.parametrize("what", ["saving step 20", "restoring", "evaluation retrieval at step 50"])
def test_what_takes_longer_than_it_may_is_named_and_ends(tmp_path, what):
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), what]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == STUCK
    for told in (done.stderr, (tmp_path / "stuck-1.txt").read_text()):
        assert f"process 1 on {socket.gethostname()} stands still: {what} for " in told
        assert "process 0: has not come" in told and "process 2: has not come" in told
        assert "it_hangs_here" in told and "another_thread_waits" in told


def test_what_is_done_in_time_ends_nothing(tmp_path):
    with Watchdog(tmp_path, 0) as watchdog:
        watchdog.doing("something", 0.5)
        watchdog.doing("something else", 600)
        time.sleep(1.5)
    assert not (tmp_path / "alive").exists() and not list(tmp_path.glob("stuck-*"))


def test_a_process_gives_a_sign_of_life_at_once(tmp_path):
    """One that freezes in its first second has come."""
    with Watchdog(tmp_path, 0):
        assert json.loads((tmp_path / "alive" / "0.json").read_text())["doing"] == "starting"


def test_the_others_are_told_of_by_their_signs_of_life(tmp_path):
    watchdog = Watchdog(tmp_path, 1, 5)
    (tmp_path / "alive").mkdir()
    for process, ago in ((0, 1.0), (2, 5 * BEAT), (3, 1000 * BEAT)):
        sign = {"host": f"host-{process}", "doing": "saving step 20", "since": 7.0, "time": time.time() - ago}
        (tmp_path / "alive" / f"{process}.json").write_text(json.dumps(sign))
    watchdog.began -= 100 * BEAT  # the sign of process 3 is of an earlier run
    alive, silent, *absent = watchdog.others()
    assert alive == "  process 0 on host-0: alive, saving step 20 for 7 s"
    assert silent == f"  process 2 on host-2: silent for {5 * BEAT:.0f} s, then saving step 20 for 7 s"
    assert absent == ["  process 3: has not come", "  process 4: has not come"]


def test_each_part_of_a_run_has_its_own_deadline(tmp_path, monkeypatch):
    """As the watchdog is told in a real run, and when it is taken up again before its evaluation."""
    deadlines = {"start": 1001.0, "step": 1002.0, "save": 1003.0, "evaluation": 1004.0}
    source = {"kind": "xor", "size": 64}
    config = {
        "train": {"steps": 1, "batch": 16, "profile": 0},
        "data": {"source": source},
        "task": {"kind": "two_tower", "towers": {n: {"kind": "mlp", "inputs": 1, "widths": [4]} for n in "ab"}},
        "optim": {"lr": 0.0},
        "evals": {"retrieval": {"kind": "retrieval", "source": source, "query": "a", "item": "b"}},
        "deadlines": deadlines,
    }
    told, doing = [], Watchdog.doing

    def note(self, what, seconds):
        told.append((what, seconds))
        doing(self, what, seconds)

    monkeypatch.setattr(Watchdog, "doing", note)
    run(config, tmp_path, report=False)
    began = [
        ("joining the other processes", deadlines["start"]),
        ("agreeing with the other processes", deadlines["start"]),
        ("restoring", deadlines["start"]),
    ]
    evaluation = ("evaluation retrieval at step 1", deadlines["evaluation"])
    last = [evaluation, ("writing the last checkpoint", deadlines["save"]), ("the report", deadlines["evaluation"])]
    trained = [("compiling", deadlines["start"]), ("step 1", deadlines["step"]), ("saving step 1", deadlines["save"])]
    assert told == [*began, *trained, *last]
    told.clear()
    run(config, tmp_path)  # its report is missing
    assert told == [*began, *last]


def test_a_deadline_is_a_number_of_seconds():
    with pytest.raises(ConfigError, match=r"deadlines\.save: expected seconds, got 0"):
        Deadlines(save=0)

"""Two real processes of which some cannot write: a checkpoint is there for all or for none, and nobody waits."""

import json

from tests.test_two_processes import PROCESSES, together

TRIALS = [(), (1,), (), (0,), (0, 1), (1,), ()]
"""Of one save after the other: the processes that have no room."""


def test_a_save_that_one_process_cannot_write_is_no_checkpoint_of_any(tmp_path):
    together("save", tmp_path)  # the deadline of a save is far beyond that of this call
    told = [json.loads((tmp_path / f"result-{i}.json").read_text()) for i in range(PROCESSES)]
    assert told[0] == told[1] and told[0].pop()
    there = []
    for step, (full, (reason, steps, latest)) in enumerate(zip(TRIALS, told[0], strict=True), 1):
        there += [] if full else [step]
        assert steps == there and latest == there[-1]
        for process in range(PROCESSES):
            assert (f"process {process}: a checkpoint could not be written" in reason) == (process in full), reason
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [str(step) for step in there]


def test_a_part_that_one_process_cannot_read_is_a_damaged_checkpoint_for_all(tmp_path):
    together("restore", tmp_path)
    told = [json.loads((tmp_path / f"result-{i}.json").read_text()) for i in range(PROCESSES)]
    assert told == [[True, [1]]] * PROCESSES
    assert (tmp_path / "damaged" / "2").is_dir()

"""Rows, and the line that a person reads."""

import json
import math
import pathlib
import struct
import sys

import pytest

from bigcl.log import Log, clock, describe, encoded, number, read_rows

ROW = {
    "step": 20,
    "loss": 1.5,
    "learning_rate": 1e-3,
    "temperature": 0.07,
    "ms_per_step": 250.0,
    "pairs_per_second": 1024.0,
    "tflops": 0.5,
    "mfu": None,
    "input_wait_fraction": 0.25,
    "skipped_steps": 0,
    "eta_seconds": 3725.0,
}


def test_the_line_says_everything_a_person_wants():
    line = describe(ROW, 100)
    assert line == (
        "step  20/100 · loss 1.5000 · lr 1.00e-03 · temp 0.0700 · 250 ms/step · 1,024 pairs/s · 0.5 TFLOP/s · "
        "input wait 25% · ETA 1:02:05"
    )
    assert "MFU 41.0%" in describe({**ROW, "mfu": 0.41}, 100)
    assert "3 skipped" in describe({**ROW, "skipped_steps": 3}, 100)


@pytest.mark.parametrize("seconds, text", [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3600, "1:00:00")])
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_rows_are_json_whatever_the_numbers(tmp_path):
    log = Log(tmp_path, steps=10)
    log.write({"step": 1, "loss": math.nan, "norm": math.inf, "batch_hash": "ab"})
    log.close()
    assert read_rows(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": None, "norm": None, "batch_hash": "ab"}]
    assert number(-math.inf) is None and number(0.0) == 0.0
    assert any((tmp_path / "tensorboard").iterdir())


def test_a_resumed_log_has_each_step_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": s, "loss": 1.0}) + "\n" for s in (2, 4, 6)) + '{"step": 8, "lo')
    log = Log(tmp_path, steps=10, start=4)
    log.write({"step": 6, "loss": 2.0})
    log.close()
    assert [(r["step"], r["loss"]) for r in read_rows(path)] == [(2, 1.0), (4, 1.0), (6, 2.0)]


def test_numbers_of_the_same_step_share_a_row(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = Log(tmp_path, steps=10)
    for row in ({"step": 2, "loss": 3.0}, {"step": 2, "eval/a/b": 0.5}, {"step": 4, "loss": 2.0}):
        log.write(row)
    log.close()
    assert read_rows(path) == [{"step": 2, "loss": 3.0, "eval/a/b": 0.5}, {"step": 4, "loss": 2.0}]
    log = Log(tmp_path, steps=10, start=4)  # saved, but not evaluated
    log.write({"step": 4, "eval/a/b": 0.75})
    log.write({"step": 6, "loss": 1.0})
    log.close()
    assert read_rows(path)[1:] == [{"step": 4, "loss": 2.0, "eval/a/b": 0.75}, {"step": 6, "loss": 1.0}]


def test_a_log_is_read_while_it_is_written(tmp_path):
    """Whatever part of the bytes of a new last row, or of several, lies over the old one: no row is half of either."""
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": 2, "loss": 3.0}, {"step": 4, "loss": 2.0}]
    joined = {**rows[1], "eval/a/b": 0.5}
    for after in ([joined], [{"step": 4}], [joined, {"step": 6, "loss": 1.0}]):
        head, old, new = encoded(rows[0]), encoded(rows[1]), b"".join(map(encoded, after))
        whole = [[rows[1]], *(after[:k] for k in range(len(after) + 1))]
        for done in range(len(new) + 1):
            path.write_bytes(head + new[:done] + old[done:])
            first, *others = read_rows(path)
            assert first == rows[0] and others in whole, path.read_bytes()
        path.write_bytes(head + new)
        assert read_rows(path) == [rows[0], *after]


def test_an_earlier_line_that_is_no_row_is_an_error(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2, "lo\n{"step": 4}\n')
    with pytest.raises(ValueError):
        read_rows(path)


def test_elsewhere_than_on_a_terminal_the_line_comes_now_and_then(tmp_path, capsys):
    log = Log(tmp_path, steps=40)
    for step in (10, 20, 30, 40):
        log.status({**ROW, "step": step})
    log.close()
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert [line.split("/")[0] for line in lines] == ["step 10", "step 40"]


def test_rows_wait_while_the_disk_is_full(tmp_path, no_room, capsys):
    path = tmp_path / "metrics.jsonl"
    log = Log(tmp_path, steps=100)
    log.write({"step": 1, "loss": 1.0})
    log.write({"step": 2, "loss": 2.0})
    with no_room(path.stat().st_size + 10):
        log.write({"step": 2, "eval/a/b": 0.5})
        log.write({"step": 3, "loss": 3.0})
        log.write({"step": 4, "loss": 4.0})
        assert read_rows(path) == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.0}]  # no half line
        assert log.last == {"step": 4, "loss": 4.0}
    said = capsys.readouterr().err
    assert said.count("metrics.jsonl cannot be written (File too large)") == 1
    log.write({"step": 5, "loss": 5.0})
    log.close()
    assert [row["step"] for row in read_rows(path)] == [1, 2, 3, 4, 5]
    assert read_rows(path)[1] == {"step": 2, "loss": 2.0, "eval/a/b": 0.5}
    assert "can be written again: 4 rows" in capsys.readouterr().err


def test_rows_that_can_never_be_written_are_printed(tmp_path, no_room, capsys):
    log = Log(tmp_path, steps=100)
    log.write({"step": 1, "loss": 1.0})
    with no_room(30):
        log.write({"step": 2, "loss": 2.0})
        log.write({"step": 3, "loss": 3.0})
        log.close()
    printed = capsys.readouterr().err
    assert '{"step": 2, "loss": 2.0}\n{"step": 3, "loss": 3.0}' in printed.partition("lacks these rows")[2]


def test_event_files_outlast_a_full_disk(tmp_path, no_room):
    """More numbers than the queue of their thread holds; afterwards all of them are there, whole."""
    log = Log(tmp_path, steps=1000)
    (path,) = [log.trackers[0].writer.file_writer.event_writer._ev_writer._file_name]
    with no_room(100):
        for step in range(50):
            log.write({"step": step, "loss": float(step)})
            log.trackers[0].writer.file_writer.flush()
    log.close()
    found = events(pathlib.Path(path.partition(":")[2]))
    assert [(e.step, e.summary.value[0].simple_value) for e in found] == [(i, i) for i in range(50)]


def events(path):
    """What an event file of TensorBoard holds of numbers."""
    from tensorboardX.proto.event_pb2 import Event

    content, found = path.read_bytes(), []
    while content:
        length = int.from_bytes(content[:8], "little")
        found.append(Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    return [event for event in found if event.summary.value]


def test_tensorboard_gets_every_number_of_a_row(tmp_path):
    log = Log(tmp_path, steps=10)
    log.write({"step": 3, "loss": 1.25, "image_text/accuracy": 0.5, "eval/emoji/recall@1": 0.75, "note": "no number"})
    log.write({"step": 5, "loss": math.nan})
    log.close()
    (path,) = (tmp_path / "tensorboard").iterdir()
    found = [(e.step, v.tag, v.simple_value) for e in events(path) for v in e.summary.value]
    assert found[:3] == [
        (3, "train/loss", 1.25),
        (3, "image_text/accuracy", 0.5),
        (3, "eval/emoji/recall_1", 0.75),
    ]  # tensorboardX writes no @
    assert [(step, tag) for step, tag, _ in found[3:]] == [(5, "train/loss")] and math.isnan(found[3][2])


def wandb_records(path):
    """What a run without a network left: records of protobuf in the framing of LevelDB's log, in blocks of 32 KiB."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        size, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        parts += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


def test_wandb_gets_the_numbers_of_tensorboard(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    for name, value in {"PROJECT": "bigcl", "MODE": "offline", "SILENT": "true"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    (tmp_path / "config.json").write_text('{"optim": {"lr": 0.5}}')
    for start in (0, 2):
        log = Log(tmp_path, steps=4, start=start)
        log.write({"step": start + 2, "loss": 1.5 + start, "batch_hash": "ab"})
        log.write({"step": start + 2, "eval/retrieval/recall@1": 0.25})
        log.close()
        wandb.teardown()  # its own process has written all
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert len({f.name for f in files}) == 1 and f"run-{(tmp_path / 'wandb_id').read_text()}.wandb" == files[0].name
    found, configs = {}, set()
    for record in (record for file in files for record in wandb_records(file)):
        configs |= {(item.key, item.value_json) for item in record.run.config.update}
        items = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
        if items:
            found[items["_step"]] = {k: v for k, v in items.items() if not k.startswith("_")}
    assert found == {s: {"train/loss": s - 0.5, "eval/retrieval/recall@1": 0.25} for s in (2, 4)}
    assert ("optim", '{"lr":0.5}') in {(k, v.replace(" ", "")) for k, v in configs}


def test_wandb_that_is_asked_for_and_absent_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "bigcl")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r"bigcl\[wandb\]"):
        Log(tmp_path, steps=1)

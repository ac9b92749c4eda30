"""What a run says: `metrics.jsonl`, TensorBoard, Weights & Biases where it is configured, and one line that a person
can read."""

import contextlib
import json
import math
import os
import pathlib
import sys
import time
import uuid
from collections.abc import Mapping
from typing import Any, Protocol

import jax

from bigcl.files import PatientFile, replacing, write_at

Row = Mapping[str, Any]

PATIENT = "patient"
"""The scheme of paths that tensorboardX opens as `PatientFile`."""


class Log:
    """Writes rows of named numbers. Only the first process writes; all may call.

    Rows that cannot be written, for the disk is full, wait in memory and are tried again with each new one; that is
    said when it begins and when it ends.

    start: rows of an earlier part of the run are kept up to this step, so that a resumed run has each step once.
    """

    def __init__(self, workdir: pathlib.Path, *, steps: int, start: int = 0):
        self.writes, self.steps = jax.process_index() == 0, steps
        self.live, self.said = sys.stderr.isatty(), -math.inf
        self.rows: list[dict[str, Any]] = []  # the last, which more numbers may join, and before it those that wait
        self.refused = False
        if not self.writes:
            return
        path = workdir / "metrics.jsonl"
        kept = [row for row in read_rows(path) if row["step"] <= start]
        lines = [encoded(row) for row in kept]
        with replacing(path) as partial:
            partial.write_bytes(b"".join(lines))
        self.file = os.open(path, os.O_WRONLY)
        self.rows, self.end = kept[-1:], sum(map(len, lines[:-1]))
        self.on_disk = b"".join(lines[-1:])  # from `end`
        self.trackers: list[Tracker] = [TensorBoard(workdir, start)]
        if os.environ.get("WANDB_PROJECT"):
            self.trackers.append(WeightsAndBiases(workdir))

    @property
    def last(self) -> dict[str, Any]:
        """The row that was written last."""
        return self.rows[-1] if self.rows else {}

    def write(self, row: Row) -> None:
        """Numbers of a `step`; those of the step that was written last join its row."""
        if not self.writes:
            return
        if row["step"] == self.last.get("step"):
            self.last.update(row)
        else:
            self.rows.append(dict(row))
        self.flush()
        numbers = {k if "/" in k else f"train/{k}": v for k, v in row.items() if isinstance(v, int | float)}
        numbers.pop("train/step")
        for tracker in self.trackers:
            tracker.write(row["step"], numbers)

    def flush(self) -> None:
        """Writes the rows that are not on the disk as they are here."""
        *done, last = [encoded(row) for row in self.rows] or [b""]
        try:
            write_at(self.file, self.end, b"".join([*done, last]))
        except OSError as error:
            with contextlib.suppress(OSError):
                write_at(self.file, self.end, self.on_disk)  # needs no room; half a line would be none
            if not self.refused:
                self.say(f"warning: metrics.jsonl cannot be written ({error.strerror}); its rows wait in memory")
            self.refused = True
            return
        if self.refused:
            self.say(f"metrics.jsonl can be written again: {len(self.rows)} rows that waited are there")
        self.refused, self.end, self.on_disk = False, self.end + sum(map(len, done)), last
        del self.rows[:-1]

    def status(self, row: Row) -> None:
        """The live line of a training step: rewritten in place on a terminal, every half minute elsewhere."""
        if not self.writes:
            return
        line = describe(row, self.steps)
        if self.live:
            self.tell(f"\r\033[2K{line}", end="")
        elif time.monotonic() - self.said > 30 or row["step"] >= self.steps:
            self.tell(line)
            self.said = time.monotonic()

    def say(self, text: str = "") -> None:
        """A line that stays."""
        if self.writes:
            self.tell(("\r\033[2K" if self.live else "") + text)

    def tell(self, text: str, end: str = "\n") -> None:
        """Prints, unless that goes to a disk that is full."""
        with contextlib.suppress(OSError):
            print(text, end=end, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Ends the live line and the files. Rows that still cannot be written are printed."""
        if not self.writes:
            return
        self.say()
        self.flush()
        if self.refused:
            rows = b"".join(map(encoded, self.rows)).decode()
            self.say(f"warning: metrics.jsonl lacks these rows:\n{rows}")
        os.close(self.file)
        for tracker in self.trackers:
            tracker.close()


class Tracker(Protocol):
    """Where the numbers go besides `metrics.jsonl`, by step and name."""

    def write(self, step: int, numbers: Mapping[str, float], /) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in the workdir's `tensorboard/`. start: what an earlier part of the run wrote after it is hidden.

    Its thread must not meet a full disk, for then it ends, and whoever gives it numbers waits for ever.
    """

    def __init__(self, workdir: pathlib.Path, start: int):
        from tensorboardX import SummaryWriter
        from tensorboardX.record_writer import register_writer_factory

        register_writer_factory(PATIENT, Patience())
        self.writer = SummaryWriter(f"{PATIENT}:{workdir / 'tensorboard'}", purge_step=start + 1)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class Patience:
    """Opens files for tensorboardX, under paths that begin with `PATIENT:`."""

    def open(self, path: str) -> PatientFile:
        """The file of a path."""
        return PatientFile(pathlib.Path(path.partition(":")[2]))

    def directory_check(self, path: str) -> None:
        """Makes a folder."""
        pathlib.Path(path.partition(":")[2]).mkdir(parents=True, exist_ok=True)


class WeightsAndBiases:
    """A run of Weights & Biases, with the config. It is set up by W&B's own variables of the environment: logging is on
    where WANDB_PROJECT names a project, and WANDB_ENTITY, WANDB_MODE=offline and the others mean what they mean there.

    The id of the run is kept in the workdir, so that a resumed run goes on there too. Raises ImportError if the package
    is absent.
    """

    def __init__(self, workdir: pathlib.Path):
        try:
            import wandb
        except ImportError as error:
            raise ImportError(
                'WANDB_PROJECT is set, but wandb is not installed: pip install "bigcl[wandb]", or unset it'
            ) from error
        name, config = workdir / "wandb_id", workdir / "config.json"
        if not name.exists():
            with replacing(name) as partial:
                partial.write_text(uuid.uuid4().hex[:12])
        self.run = wandb.init(
            id=name.read_text(),
            resume="allow",
            name=workdir.resolve().name,
            dir=workdir,
            config=json.loads(config.read_text()) if config.exists() else {},
        )

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        self.run.log(dict(numbers), step=step)

    def close(self) -> None:
        self.run.finish()


def encoded(row: Row) -> bytes:
    """A row as a line of JSON."""
    return (json.dumps({k: number(v) for k, v in row.items()}) + "\n").encode()


def number(value: Any) -> Any:
    """JSON has no NaN or infinity: they are written as null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def describe(row: Row, steps: int) -> str:
    """A training row as a person reads it."""
    mfu = f"MFU {row['mfu']:.1%}" if row.get("mfu") is not None else f"{row['tflops']:.3g} TFLOP/s"
    parts = [
        f"step {row['step']:>{len(str(steps))}}/{steps}",
        f"loss {row['loss']:.4f}",
        f"lr {row['learning_rate']:.2e}",
        f"temp {row['temperature']:.4f}" if "temperature" in row else "",
        f"{row['ms_per_step']:.0f} ms/step",
        f"{row['pairs_per_second']:,.0f} pairs/s",
        mfu,
        f"input wait {row['input_wait_fraction']:.0%}",
        f"{row['skipped_steps']} skipped" if row["skipped_steps"] else "",
        f"ETA {clock(row['eta_seconds'])}",
    ]
    return " · ".join(p for p in parts if p)


def clock(seconds: float) -> str:
    """`1:02:03`, or `2:03` below an hour."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"


def read_rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of a metrics file, which a run may just be writing: the last row is written anew in place when more
    numbers join it, so a last line that is not whole is left out. No rows if there is no file.

    Raises ValueError if an earlier line is not JSON.
    """
    if not path.exists():
        return []
    *lines, last = path.read_bytes().splitlines() or [b""]
    rows = [json.loads(line) for line in lines]
    with contextlib.suppress(ValueError):
        rows.append(json.loads(last))
    return rows

"""What a run says: `metrics.jsonl`, TensorBoard, and one line that a person can read."""

import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax

from bigcl.files import replacing

Row = Mapping[str, Any]


class Log:
    """Writes rows of named numbers. Only the first process writes; all may call.

    start: rows of an earlier part of the run are kept up to this step, so that a resumed run has each step once.
    """

    def __init__(self, workdir: pathlib.Path, *, steps: int, start: int = 0):
        self.writes, self.steps = jax.process_index() == 0, steps
        self.live, self.said = sys.stderr.isatty(), -math.inf
        self.last: dict[str, Any] = {}
        if not self.writes:
            return
        from tensorboardX import SummaryWriter

        path = workdir / "metrics.jsonl"
        kept = [row for row in read_rows(path) if row["step"] <= start]
        with replacing(path) as partial:
            partial.write_bytes(b"".join(map(encoded, kept)))
        self.file = path.open("r+b", buffering=0)
        self.last = kept[-1] if kept else {}
        self.end = self.file.seek(0, os.SEEK_END)  # of what stays as it is
        if kept:
            self.end -= len(encoded(self.last))
        self.tensorboard = SummaryWriter(str(workdir / "tensorboard"), purge_step=start + 1, write_to_disk=True)

    def write(self, row: Row) -> None:
        """Numbers of a `step`; those of the step that was written last join its row."""
        if not self.writes:
            return
        if row["step"] == self.last.get("step"):
            self.last |= row
        else:
            self.end, self.last = self.file.seek(0, os.SEEK_END), dict(row)
        self.file.seek(self.end)
        self.file.write(encoded(self.last))
        for key, value in row.items():
            if isinstance(value, int | float) and key != "step":
                self.tensorboard.add_scalar(key if "/" in key else f"train/{key}", value, row["step"])

    def status(self, row: Row) -> None:
        """The live line of a training step: rewritten in place on a terminal, every half minute elsewhere."""
        if not self.writes:
            return
        line = describe(row, self.steps)
        if self.live:
            print(f"\r\033[2K{line}", end="", file=sys.stderr, flush=True)
        elif time.monotonic() - self.said > 30 or row["step"] >= self.steps:
            print(line, file=sys.stderr, flush=True)
            self.said = time.monotonic()

    def say(self, text: str = "") -> None:
        """A line that stays."""
        if self.writes:
            print(("\r\033[2K" if self.live else "") + text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Ends the live line and the files."""
        if self.writes:
            self.say()
            self.file.close()
            self.tensorboard.close()


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
    """The rows of a metrics file; a last line that a killed run left half-written is dropped."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")[:-1]
    return [json.loads(line) for line in lines]

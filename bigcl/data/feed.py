"""From host batches to global device arrays, one step ahead of the training step."""

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from bigcl.data.loader import BESIDE, bad_records
from bigcl.tasks.task import Batch


class Feed:
    """Global batches that are already on the devices; `waited` sums the seconds that the devices had nothing to do for
    want of one. `bad` lists the bad records of the batches that were taken, until someone empties it; `repeats` are the
    digests of this process's rows of the last one.

    batches: this process's rows of each global batch.
    sharding: how the rows lie over the devices.
    """

    def __init__(self, batches: Iterator[dict[str, np.ndarray]], sharding: NamedSharding, depth: int = 2):
        self.batches, self.sharding, self.waited = batches, sharding, 0.0
        self.bad: list[dict[str, Any]] = []
        self.repeats = np.zeros(0, np.uint64)
        self.queue: queue.Queue[Any] = queue.Queue(depth)
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.fill, name="feed", daemon=True)
        self.thread.start()

    def fill(self) -> None:
        """Runs in the thread: moves batches to the devices until stopped; an error travels through the queue."""
        try:
            for batch in self.batches:
                arrays = {
                    k: jax.make_array_from_process_local_data(self.sharding, v)
                    for k, v in batch.items()
                    if k not in BESIDE
                }
                self.put((arrays, bad_records(batch), np.array(batch.get("repeats", ()), np.uint64)))
                if self.stopped.is_set():
                    return
        except BaseException as error:  # handed to the thread that waits for the batch
            self.put(error)

    def put(self, item: Any) -> None:
        """Waits for room, but not for ever once the reader is gone."""
        while not self.stopped.is_set():
            try:
                return self.queue.put(item, timeout=0.2)
            except queue.Full:
                continue

    def take(self, after: jax.Array | None = None) -> Batch:
        """The next batch. after: an output of the step before; until it is there the devices are busy, and nobody waits
        for input."""
        while True:
            start = time.perf_counter()
            idle = after is None or after.is_ready()  # type: ignore[attr-defined]
            try:
                item = self.queue.get(timeout=None if idle else 0.002)
                break
            except queue.Empty:
                continue
            finally:
                self.waited += idle * (time.perf_counter() - start)
        if isinstance(item, BaseException):
            raise item
        arrays, bad, self.repeats = item
        self.bad += bad
        return arrays

    def close(self) -> None:
        """Stops the thread and the reader behind it."""
        self.stopped.set()
        self.thread.join(timeout=10)
        if hasattr(self.batches, "close"):
            self.batches.close()

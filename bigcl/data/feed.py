"""From host batches to global device arrays, one step ahead of the training step."""

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from bigcl.tasks.task import Batch


class Feed:
    """Iterates over global batches that are already on the devices; `waited` sums the seconds that `next` has blocked.

    batches: this process's rows of each global batch.
    sharding: how the rows lie over the devices.
    """

    def __init__(self, batches: Iterator[dict[str, np.ndarray]], sharding: NamedSharding, depth: int = 2):
        self.batches, self.sharding, self.waited = batches, sharding, 0.0
        self.queue: queue.Queue[Any] = queue.Queue(depth)
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.fill, name="feed", daemon=True)
        self.thread.start()

    def fill(self) -> None:
        """Runs in the thread: moves batches to the devices until stopped; an error travels through the queue."""
        try:
            for batch in self.batches:
                self.put(
                    {
                        k: jax.make_array_from_process_local_data(self.sharding, v)
                        for k, v in batch.items()
                        if k != "index"
                    }
                )
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

    def __next__(self) -> Batch:
        start = time.perf_counter()
        item = self.queue.get()
        self.waited += time.perf_counter() - start
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """Stops the thread and the reader behind it."""
        self.stopped.set()
        self.thread.join(timeout=10)
        if hasattr(self.batches, "close"):
            self.batches.close()

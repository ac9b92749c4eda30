"""A checkpoint is saved on all processes or on none."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
from jax._src import distributed  # Orbax takes its barriers from there as well: they have no public name
from orbax.checkpoint.multihost import get_barrier_sync_fn

BARRIERS = ("set_value_start", "async_write_complete", "async_commit_complete", "set_value_start")
"""Parts of the names of Orbax's barriers, in the order in which a save comes to them: before anything is written, when
this process has written its part, when the checkpoint has its final name, at the end."""

SAVES = itertools.count()
"""Numbers of the saves of this process; the same on all, as all save together."""


class NotSaved(RuntimeError):
    """Another process could not write its part of a checkpoint, so there is none."""


class Outcome:
    """The barriers of a save, for the threads of Orbax that write while training goes on: its `barrier_sync_fn`.

    From a failure Orbax goes straight to the end of the save, while the other processes wait at the barriers between
    until a deadline. Here a process makes up for the barriers that it left out, and says that it does; whoever hears of
    it gives up this save as well. So no checkpoint lacks a part, and nobody waits for one that will not come.
    """

    def __init__(self) -> None:
        self.key, self.next = "", len(BARRIERS)
        self.barrier: Callable[..., None] = get_barrier_sync_fn()

    def begin(self) -> None:
        """Before each save, on all processes, when the one before has ended."""
        self.key, self.next = f"bigcl/save/{next(SAVES)}/", 0

    def __call__(self, *, key: str, timeout_ms: int) -> None:
        """Waits until all processes are here.

        Raises NotSaved if one of them could not write; JaxRuntimeError after `timeout_ms`.
        """
        here = next((i for i in range(self.next, len(BARRIERS)) if BARRIERS[i] in key), None)
        if here is None:
            self.barrier(key=key, timeout_ms=timeout_ms)
            return
        client: Any = distributed.global_state.client
        first, self.next = self.next, here + 1
        if first < here:
            client.key_value_set(f"{self.key}{jax.process_index()}", "not written", allow_overwrite=True)
        for i in range(first, here + 1):
            self.barrier(key=f"{self.key}{i}", timeout_ms=timeout_ms)
        if self.next < len(BARRIERS) and client.key_value_dir_get(self.key):
            raise NotSaved("another process could not write its part")

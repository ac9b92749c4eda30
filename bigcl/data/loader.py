"""The batches of one process: a pure function of (seed, step), made ahead of time by threads or worker processes."""

import os
import signal
from collections.abc import Mapping, Sequence
from typing import Any

import grain.python as grain
import jax
import numpy as np
from absl import flags
from jaxtyping import Int64

from bigcl.data.order import batch_indices
from bigcl.data.sources import Example, Source, source_name
from bigcl.data.transforms import Transform

Batch = dict[str, np.ndarray]
_ENDLESS = 2**48
_TOGETHER = 16
"""Examples that go through the transforms side by side. One by one takes half as long again: the code of each transform
would leave the cache of the core before it is needed next. More would hold many undiminished pictures at once."""


class Loader:
    """Endless shuffled batches.

    Row r of the global batch of step k is position k * batch + r of the stream (see `bigcl.data.order`), and process p
    holds the p-th of `process_count` equal blocks of rows. A batch is one element of the Grain pipeline, so that
    neither the number of processes nor that of workers can change what is in it.

    batch: examples in the global batch.
    workers: processes that make batches; 0 makes them in threads of this one.
    prefetch: batches that are ready ahead of time, for each worker; 0 makes them when asked (workers need at least 1).
    """

    def __init__(
        self,
        source: Source,
        transforms: Sequence[Transform],
        *,
        batch: int,
        seed: int,
        workers: int = 0,
        prefetch: int = 2,
        shuffle: bool = True,
        process_index: int = 0,
        process_count: int = 1,
    ):
        if workers and not prefetch:
            raise ValueError("data.prefetch: worker processes need at least 1")
        self.size, self.batch, self.seed, self.shuffle = len(source), batch, seed, shuffle
        self.workers, self.prefetch = workers, prefetch
        self.rows = process_rows(batch, process_index, process_count)
        self.assemble = Assemble(source, transforms, seed)

    def indices(self, step: int) -> Int64[np.ndarray, " batch"]:
        """Source indices of the global batch of a step."""
        return batch_indices(step, self.batch, self.size, self.seed, self.shuffle)

    def host_batch(self, step: int) -> Batch:
        """This process's rows of the global batch of a step."""
        positions = step * self.batch + np.arange(self.rows.start, self.rows.stop)
        return self.assemble(self.indices(step)[self.rows], positions)

    def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of this process's batches, from the first example."""
        one = self.assemble(self.indices(0)[:1], np.zeros(1, np.int64))
        rows = self.rows.stop - self.rows.start
        return {k: jax.ShapeDtypeStruct((rows, *v.shape[1:]), v.dtype) for k, v in one.items()}

    def batches(self, start_step: int = 0) -> "grain.DatasetIterator[Batch]":
        """Batches of steps start_step, start_step + 1, ...; close the iterator when done with it."""
        return iterate(grain.MapDataset.range(start_step, _ENDLESS).map(self.host_batch), self.workers, self.prefetch)


def pad_batches(
    source: Source,
    transforms: Sequence[Transform],
    *,
    batch: int,
    process_index: int = 0,
    process_count: int = 1,
    prefetch: int = 2,
) -> "grain.DatasetIterator[Batch]":
    """This process's batches of one pass in order, for evaluation.

    The last global batch is filled up with the last example; `valid` (bool [b]) is False there. Random transforms draw
    from (0, index): every pass is the same.
    """
    size, rows = len(source), process_rows(batch, process_index, process_count)
    assemble = Assemble(source, transforms, seed=0)

    def host_batch(step: int) -> Batch:
        positions = step * batch + np.arange(rows.start, rows.stop)
        indices = np.minimum(positions, size - 1)
        return {**assemble(indices, indices), "valid": positions < size}

    return iterate(grain.MapDataset.range(-(-size // batch)).map(host_batch), workers=0, prefetch=prefetch)


def process_rows(batch: int, process_index: int, process_count: int) -> slice:
    """The rows of the global batch that a process holds."""
    if batch % process_count:
        raise ValueError(f"batch: {batch} does not divide among {process_count} processes")
    rows = batch // process_count
    return slice(process_index * rows, (process_index + 1) * rows)


class Assemble:
    """Source indices and stream positions -> batch of transformed examples."""

    def __init__(self, source: Source, transforms: Sequence[Transform], seed: int):
        self.source, self.transforms, self.seed = source, tuple(transforms), seed & (2**64 - 1)

    def __call__(self, indices: Int64[np.ndarray, " b"], positions: Int64[np.ndarray, " b"]) -> Batch:
        """Stacks arrays and numbers; text, bytes and nested values stay behind. Adds `index` (int64 [b])."""
        examples = []
        for start in range(0, len(indices), _TOGETHER):
            few = slice(start, start + _TOGETHER)
            examples += self.examples(indices[few].tolist(), positions[few].tolist())
        return {**stack(examples, source_name(self.source)), "index": np.asarray(indices, np.int64)}

    def examples(self, indices: Sequence[int], positions: Sequence[int]) -> list[Example]:
        """Transformed examples, each with its own random numbers whichever process or thread makes it."""
        examples: list[Example] = []
        rngs = [example_rng(self.seed, p) for p in positions]
        row, doing = 0, "the source"
        try:
            for row in range(len(indices)):
                examples.append(dict(self.source[indices[row]]))
            for transform in self.transforms:
                doing = type(transform).__name__
                for row, rng in enumerate(rngs):
                    examples[row] = transform(examples[row], rng)
        except Exception as error:
            error.add_note(f"in {doing}, for example {indices[row]} of {source_name(self.source)}")
            raise
        return examples


def example_rng(seed: int, position: int) -> np.random.Generator:
    """The random numbers of the example at a position of the stream."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, position], np.uint64)))


def stack(examples: Sequence[Mapping[str, Any]], name: str) -> Batch:
    """Numeric values of the examples, stacked. Raises ValueError, naming the key, for shapes that differ."""
    result = {}
    for key, first in examples[0].items():
        if not isinstance(first, np.ndarray | np.generic | int | float) or np.asarray(first).dtype.kind not in "biuf":
            continue
        values = [np.asarray(e[key]) for e in examples]
        if len(shapes := sorted({v.shape for v in values})) > 1:
            raise ValueError(
                f"{name}: {key!r} has shapes {shapes[0]} and {shapes[-1]} in one batch; add a transform that evens them"
            )
        result[key] = np.stack(values)
    return result


def iterate(batches: "grain.MapDataset[Batch]", workers: int, prefetch: int) -> "grain.DatasetIterator[Batch]":
    """Iterates ahead of time. A thread makes one batch at a time; half the cores are left to whoever consumes them."""
    threads = 1 if workers else min(prefetch, max(1, available_cores() // 2))
    ahead = batches.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch))
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain's workers read absl flags; without absl.app nothing parses them
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=prefetch)
        ahead = ahead.mp_prefetch(options, worker_init_fn=leave_signals_to_parent)
    return iter(ahead)


def leave_signals_to_parent(index: int, count: int) -> None:
    """Runs in each worker: Ctrl-C reaches every process of a terminal, and the trainer still wants a batch or two."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

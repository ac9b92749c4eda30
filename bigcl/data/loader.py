"""The batches of one process: a pure function of (seed, step), made ahead of time by threads or worker processes."""

import hashlib
import itertools
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grain.python as grain
import jax
import numpy as np
from absl import flags
from jaxtyping import Int64, UInt64

from bigcl.data.order import Order, make_order
from bigcl.data.sources import BadRecord, Example, Source, place, reads, source_name
from bigcl.data.transforms import Transform, field
from bigcl.notice import PREEMPTION

Batch = dict[str, np.ndarray]
Marked = tuple[Example | BadRecord, dict[str, UInt64[np.ndarray, " n"]]]
BESIDE = ("index", "bad", "repeats")
"""What comes with a batch and is not for the devices."""
_REPLACEMENTS = 16
_ENDLESS = 2**48
_TOGETHER = 16
"""Examples that go through the transforms side by side. One by one takes half as long again: the code of each transform
would leave the cache of the core before it is needed next. More would hold many undiminished pictures at once."""


class Loader:
    """Endless shuffled batches.

    Row r of the global batch of step k is position (k + passed_over) * batch + r of the stream (see
    `bigcl.data.order`), and process p holds the p-th of `process_count` equal blocks of rows. A batch is one element of
    the Grain pipeline, so that neither the number of processes nor that of workers can change what is in it.

    batch: examples in the global batch.
    workers: processes that make batches; 0 makes them in threads of this one.
    prefetch: batches that are ready ahead of time, for each worker; 0 makes them when asked (workers need at least 1).
    block, window: see `Shuffle`.
    transforms: with several `forms`, a batch has one of them, a function of (seed, step).
    repeats: fields of the source's examples by which repeats are told; their digests come as `repeats`, uint64 [b, n].
    passed_over: batches that are left out, of a run that went back to before a loss spike; may be set between two calls
        of `batches`.

    A bad record is replaced, by a function of its position: all processes and any number of workers do the same.
    `index` has the example that is there, `indices` those that were meant, and `bad`, in a batch that has met bad
    records, says which, as `bad_records` reads it.
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
        block: int | None = None,
        window: int = 16,
        repeats: Sequence[str] = (),
        process_index: int = 0,
        process_count: int = 1,
    ):
        if workers and not prefetch:
            raise ValueError("data.prefetch: worker processes need at least 1")
        self.size, self.batch, self.passed_over = len(source), batch, 0
        self.workers, self.prefetch = workers, prefetch
        self.rows = process_rows(batch, process_index, process_count)
        self.order = make_order(source, seed=seed, batch=batch, shuffle=shuffle, block=block, window=window)
        forms = [getattr(t, "forms", (t,)) for t in transforms]
        self.forms = [
            Assemble(source, [form[i % len(form)] for form in forms], seed, self.order, repeats)
            for i in range(max((len(form) for form in forms), default=1))
        ]

    def indices(self, step: int) -> Int64[np.ndarray, " batch"]:
        """Source indices of the global batch of a step."""
        return self.order((step + self.passed_over) * self.batch + np.arange(self.batch, dtype=np.int64))

    def host_batch(self, step: int) -> Batch:
        """This process's rows of the global batch of a step."""
        positions = (step + self.passed_over) * self.batch + np.arange(self.rows.start, self.rows.stop)
        return self.forms[self.form(step)](self.indices(step)[self.rows], positions)

    def form(self, step: int) -> int:
        """Which of the forms of its transforms a batch has, evenly by chance."""
        if len(self.forms) == 1:
            return 0
        beyond = 2**64 - 1 - step  # no position, so that no example has the same random numbers
        return int(example_rng(self.forms[0].seed, beyond).integers(len(self.forms)))

    def spec(self, form: int = 0) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of this process's batches of a form, from the first example."""
        one = self.forms[form](self.indices(0)[:1], np.zeros(1, np.int64))
        rows = self.rows.stop - self.rows.start
        return {k: jax.ShapeDtypeStruct((rows, *v.shape[1:]), v.dtype) for k, v in one.items() if k != "bad"}

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
    from (0, index): every pass is the same. Raises BadRecord, as numbers without an example would be other numbers.
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
    """Source indices and stream positions -> batch of transformed examples.

    order: where replacements of bad records come from; None: a bad record is an error.
    """

    def __init__(
        self,
        source: Source,
        transforms: Sequence[Transform],
        seed: int,
        order: Order | None = None,
        repeats: Sequence[str] = (),
    ):
        self.source, self.transforms, self.seed = source, tuple(transforms), seed & (2**64 - 1)
        self.order, self.repeats = order, tuple(repeats)

    def __call__(self, indices: Int64[np.ndarray, " b"], positions: Int64[np.ndarray, " b"]) -> Batch:
        """Stacks arrays and numbers; text, bytes and nested values stay behind. Adds `index` (int64 [b]), and `source`
        (int32 [b]) if the source is a mixture."""
        index, examples, bad = np.array(indices, np.int64), [], []
        for row, example in enumerate(self.each(index.tolist(), positions.tolist())):
            attempt = 0
            while isinstance(example, BadRecord):
                attempt += 1
                bad.append(self.facts(example, int(index[row])))
                index[row] = self.replacement(example, int(index[row]), int(positions[row]), attempt)
                (example,) = self.each([int(index[row])], [int(positions[row])])
            examples.append(example)
        batch = {**stack(examples, source_name(self.source)), "index": index}
        if hasattr(self.source, "which"):
            batch["source"] = self.source.which(index)
        if bad:
            batch["bad"] = np.frombuffer(json.dumps(bad).encode(), np.uint8)
        return batch

    def each(self, indices: Sequence[int], positions: Sequence[int]) -> Iterator[Example | BadRecord]:
        """Transformed examples, a few made at a time; in the place of a bad record its error."""
        read = map(self.marked, reads(self.source, indices))
        for start in range(0, len(indices), _TOGETHER):
            few = slice(start, start + _TOGETHER)
            yield from self.transformed(list(itertools.islice(read, _TOGETHER)), indices[few], positions[few])

    def marked(self, example: Example | BadRecord) -> Marked:
        """An example of the source, and beside it the digests of its fields by which repeats are told."""
        if not self.repeats or isinstance(example, BadRecord):
            return example, {}
        try:
            return example, {"repeats": np.array([digest(field(example, key)) for key in self.repeats], np.uint64)}
        except BadRecord as error:
            error.key = name_of(example)
            return error, {}

    def transformed(
        self, marked: Sequence[Marked], indices: Sequence[int], positions: Sequence[int]
    ) -> list[Example | BadRecord]:
        """Examples through the transforms, each with its own random numbers whichever process or thread does it; bad
        records stay as they are."""
        examples: list[Any] = [example for example, _ in marked]
        rngs = [example_rng(self.seed, p) for p in positions]
        row, doing = 0, ""
        try:
            for transform in self.transforms:
                doing = type(transform).__name__
                for row, rng in enumerate(rngs):
                    if isinstance(examples[row], BadRecord):
                        continue
                    try:
                        examples[row] = transform(examples[row], rng)
                    except BadRecord as error:
                        error.key = error.key or name_of(examples[row])
                        examples[row] = error
        except Exception as error:
            error.add_note(f"in {doing}, for example {indices[row]} of {source_name(self.source)}")
            raise
        return [e if isinstance(e, BadRecord) else {**e, **d} for e, (_, d) in zip(examples, marked, strict=True)]

    def facts(self, error: BadRecord, index: int) -> dict[str, Any]:
        """What is known of a bad record, for `quarantine.jsonl`."""
        source, own = self.source.part(index) if hasattr(self.source, "part") else (self.source, index)
        shard, offset = (error.shard, error.offset) if error.shard else place(source, own)
        return {
            "source": error.source or source_name(source),
            "key": error.key or str(own),
            "shard": shard,
            "offset": offset,
            "reason": error.reason,
            "index": index,
        }

    def replacement(self, error: BadRecord, index: int, position: int, attempt: int) -> int:
        """The example to try next. Raises the error if there have been enough, or if none is wanted."""
        if self.order is None or attempt > _REPLACEMENTS:
            tried = f", the last of {attempt} in a row that are bad" if self.order else ""
            error.add_note(f"example {index} of {source_name(self.source)}{tried}")
            raise error
        return self.order.replacement(index, position, attempt)


def bad_records(batch: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Source, key, shard, offset, reason and index of each bad record that was met in making a batch."""
    return json.loads(batch["bad"].tobytes()) if "bad" in batch else []


def digest(value: Any) -> int:
    """64 bits that tell values apart."""
    if isinstance(value, np.ndarray):
        value = value.tobytes()
    return int.from_bytes(
        hashlib.blake2b(value if isinstance(value, bytes) else repr(value).encode(), digest_size=8).digest(), "little"
    )


def name_of(example: Example) -> str | None:
    """How the source calls an example, if it does."""
    return key if isinstance(key := example.get("key"), str) else None


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
        ahead = ahead.mp_prefetch(options, worker_init_fn=attend_parent)
    return iter(ahead)


def attend_parent(index: int, count: int) -> None:
    """Runs in each worker, which ends with its parent and no sooner: Ctrl-C reaches every process of a terminal and a
    scheduler's notice every process of a job, while the trainer still wants a batch or two."""
    for number in (signal.SIGINT, *PREEMPTION):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=follow_parent, daemon=True).start()


def follow_parent() -> None:
    """Ends this process when its parent is gone, killed perhaps, which Grain's workers would outlive for ever."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

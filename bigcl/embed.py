"""Embeds a data set: `python -m bigcl.embed --checkpoint runs/emoji --data '{"kind": "emoji"}' --out embeddings/`.

--checkpoint  a run, one of its checkpoints, what `bigcl.convert` wrote, or an exported folder
--data        a source as in a config, or the name of one that needs no options
--out         a folder of shards, see `bigcl.embeddings`; the same command again makes those that are missing

Started once on each host, as `bigcl.train` is, the hosts share the shards. Every input that an example has is embedded.
"""

from bigcl import host

if __name__ == "__main__":
    host.prepare()

import argparse
import contextlib
import json
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import grain.python as grain
import jax
import numpy as np
from absl import logging
from tqdm.auto import tqdm

from bigcl import registry
from bigcl.checkpoint import CheckpointError
from bigcl.data.loader import Assemble, iterate, stack
from bigcl.data.pipeline import source_part
from bigcl.data.sources import BadRecord, Source, readable, source_identity, source_name
from bigcl.data.transforms.text import read_text
from bigcl.embeddings import Format, Rows, Shards
from bigcl.pretrained import Pretrained
from bigcl.registry import ConfigError, Part, nearest

_TRIED = 100
KEY = "key"
"""The field that names an example where there is one."""


def main() -> None:
    """Embeds what is missing, and says where it is."""
    logging.set_verbosity(logging.ERROR)
    parser = argparse.ArgumentParser(
        prog="python -m bigcl.embed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=pathlib.Path, required=True)
    parser.add_argument("--step", type=int, help="of a run; default: the latest")
    parser.add_argument("--data", type=source_part, required=True, help='as in {"kind": "parquet", "paths": "laion"}')
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--format", choices=("npy", "parquet"), default="npy")
    parser.add_argument("--key", default=KEY, help="the field that names an example (default key, else its number)")
    parser.add_argument("--batch", type=int, default=1024, help="examples that all devices embed at a time")
    parser.add_argument("--rows", type=int, default=65_536, help="examples in a shard (default 65536)")
    parser.add_argument("--max-bad-fraction", type=float, default=0.01, help="of a shard, above which it is an error")
    args = parser.parse_args()
    host.configure_jax()
    options = {k: getattr(args, k) for k in ("step", "format", "key", "batch", "rows", "max_bad_fraction")}
    try:
        host.join_cluster()
        print_summary(args.out, embed(args.checkpoint, args.data, args.out, **options))
    except (ValueError, ImportError, OSError, CheckpointError) as error:
        sys.exit("\n".join([f"error: {error}", *getattr(error, "__notes__", ())]))


class Summary(NamedTuple):
    """What one process did: examples embedded, shards that were there already, bad records left out."""

    embedded: int
    there: int
    bad: int


def print_summary(out: pathlib.Path, summary: Summary) -> None:
    """One line, for each process that did something."""
    embedded, there, bad = summary
    print(f"{out}: {embedded:,} examples embedded, {bad:,} bad ones left out, {there:,} shards were there already")


def embed(
    checkpoint: pathlib.Path,
    data: Part,
    out: pathlib.Path,
    *,
    step: int | None = None,
    format: Format = "npy",
    key: str = KEY,
    batch: int = 1024,
    rows: int = 65_536,
    max_bad_fraction: float = 0.01,
) -> Summary:
    """Writes the shards of `out` that are missing; every process of the job must call.

    Raises ConfigError for a folder of other embeddings, for data without an input of the model, and where more than
    `max_bad_fraction` of a shard are bad records.
    """
    if rows < 1:
        raise ConfigError(f"--rows {rows}: a shard has one example or more")
    if batch < 1 or batch % jax.process_count():
        raise ConfigError(f"--batch {batch}: does not divide among {jax.process_count()} processes")
    model = Pretrained.open(checkpoint, step)
    with host.together():
        source = registry.build("source", data)
        job = Job(model, source, key, batch // jax.process_count(), max_bad_fraction)
        manifest: dict[str, Any] = {"model": model.identity, "transforms": job.parts, "source": data}
        manifest |= {"identity": source_identity(source), "key": key, "inputs": job.inputs, "examples": len(source)}
        shards = Shards(out, {**manifest, "rows": rows, "format": format})
        if jax.process_index() == 0:
            shards.begin()
    missing = json.loads(host.gathered(json.dumps(shards.missing()).encode())[0])
    embedded = bad = 0
    for good, lost in job.run(shards, missing):
        embedded, bad = embedded + good, bad + lost
    return Summary(embedded, len(shards) - len(missing), bad)


class Slice(NamedTuple):
    """A batch of one process. shard: None where only others still have work; total: examples of all processes."""

    shard: int | None
    examples: range
    last: bool
    total: int


class Made(NamedTuple):
    """A slice prepared. batch: of the same shapes every time, the examples first; bad: what was left out."""

    slice: Slice
    batch: dict[str, np.ndarray]
    indices: list[int]
    keys: list[str]
    bad: list[dict[str, Any]]


class Named:
    """A source that remembers what the examples that were read are called, whatever transforms make of them."""

    def __init__(self, source: Source, field: str):
        self.source, self.field, self.name = source, field, source_name(source)
        self.keys: dict[int, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        example = self.source[index]
        self.keys[index] = str(index) if example.get(self.field) is None else read_text(dict(example), self.field)
        return example


class Job:
    """How this process embeds shards, in step with the others.

    key: the field that names an example.  batch: rows of this process.  allowed: share of bad records in a shard.
    parts: what prepares examples, on the host and on the devices.
    """

    def __init__(self, model: Pretrained, source: Source, key: str, batch: int, allowed: float):
        self.model, self.source, self.key, self.batch, self.allowed = model, source, key, batch, allowed
        first = next((e for i in range(min(_TRIED, len(source))) if (e := readable(source.__getitem__, i))), None)
        if first is None:
            raise ConfigError(f"--data: no example of {source_name(source)} can be read")
        if key not in first and key != KEY:
            raise ConfigError(f"--key {key}: an example has no such field; {nearest(key, first)}")
        self.parts, self.transforms = [*model.chosen(list(first)), *model.device], model.prepare(list(first))
        self.empty: dict[str, np.ndarray] = {}
        examples = (self.make(Slice(0, range(i, i + 1), True, 1)) for i in range(min(_TRIED, len(source))))
        example = next((made for made in examples if made.indices), None)
        if example is None:
            raise ConfigError(f"--data: the first {_TRIED} examples of {source_name(source)} are all bad records")
        self.empty = {k: np.zeros((batch, *v.shape[1:]), v.dtype) for k, v in example.batch.items()}
        self.inputs = [name for name in model.inputs if name in self.empty]

    def plan(self, shards: Shards, missing: Sequence[int]) -> list[Slice]:
        """What this process does, batch by batch; as many batches on every process."""
        process, count = jax.process_index(), jax.process_count()
        slices = []
        for start in range(0, len(missing), count):
            together = [shards.examples(number) for number in missing[start : start + count]]
            steps = max(-(-len(examples) // self.batch) for examples in together)
            number = missing[start + process] if process < len(together) else None
            for step in range(steps):
                few = slice(step * self.batch, (step + 1) * self.batch)
                mine = together[process][few] if number is not None else range(0)
                slices.append(Slice(number, mine, step == steps - 1, sum(len(e[few]) for e in together)))
        return slices

    def make(self, part: Slice) -> Made:
        """Reads and prepares the examples of a slice."""
        named = Named(self.source, self.key)
        assemble = Assemble(named, self.transforms, seed=0)
        index, good, bad = [], [], []
        for i, example in zip(part.examples, assemble.each(part.examples, part.examples), strict=True):
            if isinstance(example, BadRecord):
                bad.append(assemble.facts(example, i))
            else:
                index.append(i)
                good.append(self.model.reads(example))
        batch = stack(good, source_name(self.source)) if good else {}
        if self.empty:
            batch = {k: np.concatenate([batch[k], v[len(good) :]]) if good else v for k, v in self.empty.items()}
        return Made(part, batch, index, [named.keys[i] for i in index], bad)

    def run(self, shards: Shards, missing: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Writes shards, as many at a time as there are processes; yields the numbers of good examples and bad ones of
        the one that this process wrote. If one process cannot go on, all end.

        While the devices embed one batch, the next is handed to them and those after it are being made.
        """
        slices = self.plan(shards, missing)
        if not slices:
            return
        batches = iterate(grain.MapDataset.range(len(slices)).map(lambda i: self.make(slices[i])), 0, prefetch=2)
        bar = tqdm(
            total=sum(part.total for part in slices),
            desc=f"embedding {source_name(self.source)}",
            unit=" examples",
            disable=jax.process_index() > 0,
        )
        whole: list[tuple[Made, dict[str, np.ndarray]]] = []
        with contextlib.closing(batches), bar:
            for made, outputs in self.one_ahead(batches):
                whole.append((made._replace(batch={}), outputs))
                bar.update(made.slice.total)
                if not made.slice.last:
                    continue
                with host.together():
                    counts = (0, 0) if made.slice.shard is None else self.write(shards, made.slice.shard, whole)
                yield counts
                whole = []

    def one_ahead(self, batches: Iterable[Made]) -> Iterator[tuple[Made, dict[str, np.ndarray]]]:
        """Batches with their embeddings, each fetched when the next has been handed to the devices."""
        ahead: list[tuple[Made, Callable[[], dict[str, np.ndarray]]]] = []
        for made in batches:
            ahead.append((made, self.model.encode.start(made.batch)))
            if len(ahead) > 1:
                done, wait = ahead.pop(0)
                yield done, wait()
        for done, wait in ahead:
            yield done, wait()

    def write(
        self, shards: Shards, number: int, whole: Sequence[tuple[Made, Mapping[str, np.ndarray]]]
    ) -> tuple[int, int]:
        """Writes a shard from its batches. Raises ConfigError if too much of it is bad."""
        indices = np.array([i for made, _ in whole for i in made.indices], np.int64)
        bad = [record for made, _ in whole for record in made.bad]
        shards.write_bad(number, bad)
        if len(bad) > self.allowed * (len(indices) + len(bad)):
            raise ConfigError(
                f"{len(bad):,} of {len(indices) + len(bad):,} examples are bad records, listed in "
                f"{shards.path(number, 'bad.jsonl')}; --max-bad-fraction allows {self.allowed:g}"
            )
        keys = [key for made, _ in whole for key in made.keys]
        found = {k: np.concatenate([x[k][: len(made.indices)] for made, x in whole]) for k in self.inputs}
        shards.write(number, Rows(indices, keys, found))
        return len(indices), len(bad)


if __name__ == "__main__":
    main()

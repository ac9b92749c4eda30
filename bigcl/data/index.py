"""Finds where each sample of tar shards begins, so that they can be read at random.

    python -m bigcl.data index 'laion/{00000..00099}.tar' --workers 8

Shards that have an index of their present content are passed over: after an interruption, the same command goes on.
The exit status is 1 if something is wrong with a shard; what is wrong, and at which byte, is printed.
"""

import argparse
import concurrent.futures
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence

from tqdm.auto import tqdm

from bigcl.data.loader import available_cores
from bigcl.data.shard_index import ShardIndex, index_shard
from bigcl.data.sources.webdataset import find_shards
from bigcl.data.storage import PATIENCE


def main(argv: list[str]) -> None:
    """Parses, indexes, prints."""
    parser = argparse.ArgumentParser("python -m bigcl.data index", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("shards", nargs="+", help="files, globs, {000..123}, folders, .txt lists; local or URLs")
    parser.add_argument("--workers", type=int, default=available_cores(), help="processes (default: one a core)")
    parser.add_argument("--index", help="folder of the indexes; default: beside local shards, else in the cache")
    args = parser.parse_args(argv)
    began, faults = time.monotonic(), 0
    done: list[ShardIndex] = []
    shards = find_shards(args.shards, PATIENCE)
    for shard, result in tqdm(
        index_all(shards, args.index, args.workers), "indexing", len(shards), unit=" shards", disable=None
    ):
        if isinstance(result, ShardIndex):
            done.append(result)
            fault = None if result.fault is None else f"byte {result.fault_offset}: {result.fault}"
        else:
            fault = f"not indexed: {result}"
        if fault is not None:
            faults += 1
            tqdm.write(f"{shard}: {fault}", file=sys.stderr)
    built = [i for i in done if i.built]
    print(
        f"{len(shards)} shards, {sum(i.samples for i in done):,} samples: {len(built)} shards"
        f" ({sum(i.size for i in built) / 1e9:,.2f} GB) indexed in {time.monotonic() - began:.1f} s,"
        f" {len(done) - len(built)} were up to date, {faults} with faults"
    )
    if faults:
        sys.exit(1)


def index_all(shards: Sequence[str], folder: str | None, workers: int) -> Iterator[tuple[str, ShardIndex | Exception]]:
    """Shards as they are done, each with its index, or with the error that kept it from being read."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(max(1, workers), mp_context=context) as pool:
        jobs = {pool.submit(index_shard, shard, folder, PATIENCE): shard for shard in shards}
        try:
            for job in concurrent.futures.as_completed(jobs):
                error = job.exception()
                if isinstance(error, ImportError) or not isinstance(error, Exception | None):
                    raise error
                yield jobs[job], error or job.result()
        finally:
            pool.shutdown(cancel_futures=True)

"""Reading tables at random: Parquet by row group size and cache against ArrayRecord, and the speed of filters.

    JAX_PLATFORMS=cpu python benchmarks/tables.py

One JSON line: examples a second, one thread, files in the page cache of the system.
"""

import argparse
import json
import os
import pathlib
import platform
import tempfile
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bigcl.data.order import Shuffle
from bigcl.data.sources.arrayrecord import ArrayRecord, write_arrayrecord
from bigcl.data.sources.filtered import Filtered
from bigcl.data.sources.parquet import Parquet

FILTER = "width >= 200 and similarity > 0.28 and language in ['en', 'de']"


def rate(source, order, seconds):
    """Examples a second."""
    count, began = 0, time.perf_counter()
    for index in order:
        source[index]
        count += 1
        if time.perf_counter() - began > seconds:
            break
    return round(count / (time.perf_counter() - began))


def pictures(folder, count, kilobytes, seconds):
    """Pictures (random bytes) with captions, in order and shuffled."""
    rng = np.random.default_rng(0)
    rows = [{"image": rng.bytes(1000 * kilobytes), "text": f"caption {i}"} for i in range(count)]
    order, total = rng.permutation(count).tolist(), count * kilobytes / 1000
    write_arrayrecord(rows, folder / "records")
    records = ArrayRecord(str(folder / "records"))
    result = {"megabytes": total, "arrayrecord ordered": rate(records, range(count), seconds)}
    result["arrayrecord shuffled"] = rate(records, order, seconds)
    for group in (100, 1000):
        path = str(folder / f"{group}.parquet")
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)
        name = f"parquet, groups of {group}"
        result[f"{name}, ordered"] = rate(Parquet(path, cache=32), range(count), seconds)
        result[f"{name}, shuffled, 32 MiB cache"] = rate(Parquet(path, cache=32), order, seconds)
        if group == 100:  # 4 groups of 1000 are more than that cache
            blocks = Shuffle(count, seed=0, block=group, window=4)(np.arange(count)).tolist()
            result[f"{name}, in blocks, 32 MiB cache"] = rate(Parquet(path, cache=32), blocks, seconds)
        whole = Parquet(path, cache=2 * int(total))
        for index in range(0, count, group):
            whole[index]
        result[f"{name}, shuffled, all in the cache"] = rate(whole, order, seconds)
    return result


def filters(folder, count):
    """Rows a second that a filter goes through."""
    rng = np.random.default_rng(0)
    columns = {"width": rng.integers(0, 500, count), "similarity": rng.random(count)}
    columns["language"] = np.array(["en", "de", "fr", "zh"])[rng.integers(0, 4, count)]
    table = pa.table(columns)
    pq.write_table(table, folder / "meta.parquet")
    (folder / "meta.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    os.environ["BIGCL_DATA"] = str(folder / "cache")
    result = {}
    for kind in ("parquet", "jsonl"):
        began = time.perf_counter()
        Filtered({"kind": kind, "paths": str(folder / f"meta.{kind}")}, FILTER)
        result[f"filter over {kind}, rows"] = round(count / (time.perf_counter() - began))
    return result


def main():
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=4000, help="pictures")
    parser.add_argument("--kilobytes", type=int, default=40, help="size of a picture")
    parser.add_argument("--rows", type=int, default=300_000, help="rows that are filtered")
    parser.add_argument("--seconds", type=float, default=3.0, help="at most, for each number")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        numbers = pictures(pathlib.Path(folder), args.count, args.kilobytes, args.seconds)
        numbers |= filters(pathlib.Path(folder), args.rows)
    versions = {"python": platform.python_version(), "pyarrow": pa.__version__, "numpy": np.__version__}
    print(json.dumps({"benchmark": "tables", **versions, **numbers}))


if __name__ == "__main__":
    main()

"""Peak memory and time of exact retrieval among many items, above the embeddings themselves; one JSON line.

JAX_PLATFORMS=cpu python benchmarks/retrieval.py --items 100000 --dim 128
"""

import argparse
import json
import os
import pathlib
import platform
import time

import jax
import numpy as np

from bigcl.evals.ranks import first, ranks
from bigcl.mesh import make_mesh


def resident(key: str) -> int:
    """Bytes that the process holds (VmRSS), or held at most (VmHWM)."""
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(status.partition(f"{key}:")[2].split()[0])


def main() -> None:
    """Ranks of the right item, or with --k the first items, of random embeddings of as many queries as items."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--k", type=int, help="measure the search for the first k instead of the ranks")
    args = parser.parse_args()
    rng, mesh = np.random.default_rng(0), make_mesh()
    items = rng.standard_normal((args.items, args.dim), np.float32)
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    queries = items + rng.standard_normal(items.shape, np.float32) * np.float32(0.2)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    ids = np.arange(args.items, dtype=np.int32)
    some = slice(0, 8)
    ranks(queries[some], items[some], ids[some], ids[some], mesh)  # what JAX itself takes is not counted
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before, start = resident("VmRSS"), time.perf_counter()
    if args.k is None:
        result = {"recall@1": float(np.mean(ranks(queries, items, ids, ids, mesh) == 1))}
    else:
        result = {"hits": float(first(queries, items, ids, ids, mesh, k=args.k)[2].any(1).mean())}
    seconds = time.perf_counter() - start
    print(
        json.dumps(
            {
                "items": args.items,
                "dim": args.dim,
                "k": args.k,
                "seconds": round(seconds, 1),
                "above_embeddings_mib": round((resident("VmHWM") - before) / 2**20),
                "embeddings_mib": round((items.nbytes + queries.nbytes) / 2**20),
                **result,
                "devices": jax.device_count(),
                "cores": len(os.sched_getaffinity(0)),
                "jax": jax.__version__,
                "python": platform.python_version(),
            }
        )
    )


if __name__ == "__main__":
    main()

"""The nearest examples of each example, from embeddings: hard negatives, such as NegCLIP's hard images.

    python -m bigcl.embed --checkpoint clip --data ... --out clip/embeddings
    python -m bigcl.data neighbours --embeddings clip/embeddings --out neighbours.jsonl

A line for each example: what it and its neighbours are called, their numbers in the source, and their cosines. The
source `neighbours` gives each example with one of them. Examples that are missing in the folder, bad records, have no
line.
"""

import argparse
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32, Int64
from tqdm import tqdm

from bigcl.data.mining import cosines
from bigcl.embeddings import Shards
from bigcl.files import write_json_lines
from bigcl.losses.similarity import l2_normalize
from bigcl.registry import ConfigError

SAME = 1 - 1e-5
"""Cosine from which two examples are one, such as a picture with each of its captions."""


def main(argv: list[str]) -> None:
    """Parses, mines, writes, prints."""
    parser = argparse.ArgumentParser("python -m bigcl.data neighbours", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--embeddings", type=pathlib.Path, required=True, help="a folder that bigcl.embed wrote")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="a file of JSON lines")
    parser.add_argument("--input", default="image", help="the input that was embedded (default image)")
    parser.add_argument("--k", type=int, default=3, help="neighbours of each example (default 3)")
    args = parser.parse_args(argv)
    print(f"{args.out}: {mine(args.embeddings, args.out, args.input, args.k):,} examples")


def mine(folder: pathlib.Path, out: pathlib.Path, name: str, k: int) -> int:
    """Writes what `nearest_rows` finds in a folder of embeddings of the input `name`; for how many examples.

    Raises FileNotFoundError, and ConfigError for embeddings without this input or too few different examples.
    """
    indices, keys, found = Shards.open(folder).table(name)
    places, near = nearest_rows(found, k)
    if (places < 0).any():
        raise ConfigError(f"--k: example {keys[int((places < 0).any(1).argmax())]!r} has fewer than {k} neighbours")

    def line(i: int) -> dict[str, Any]:
        others = {"keys": [keys[j] for j in places[i]], "neighbours": indices[places[i]].tolist()}
        cosines = [round(float(cosine), 6) for cosine in near[i]]
        return {"key": keys[i], "index": int(indices[i]), **others, "cosines": cosines}

    write_json_lines(out, map(line, range(len(places))))
    return len(places)


def nearest_rows(
    x: Float[Array, "n d"] | Float[np.ndarray, "n d"], k: int = 3, chunk: int = 4096
) -> tuple[Int64[np.ndarray, "n k"], Float32[np.ndarray, "n k"]]:
    """For each row the k others of the largest cosine, nearest first, and these cosines. Rows that are the same, with a
    cosine above `SAME`, are no neighbours; where there are not enough others, the number is -1.

    x: embeddings, normalised here.  chunk: rows and columns that are compared at once.
    """
    unit = np.asarray(l2_normalize(jnp.asarray(x)), np.float32)
    starts = range(0, len(unit), chunk)
    places, near = np.full((len(unit), k), -1, np.int64), np.full((len(unit), k), -np.inf, np.float32)
    for i in tqdm(starts, desc="neighbours", disable=None if len(starts) > 1 else True):
        rows = slice(i, i + chunk)
        for j in starts:
            some = unit[j : j + chunk]
            cosine, column = (np.asarray(v) for v in best_of(unit[rows], some, min(k, len(some))))
            values = np.concatenate([near[rows], cosine], 1)
            numbers = np.concatenate([places[rows], np.where(cosine > -np.inf, column + j, -1)], 1)
            order = np.argsort(-values, axis=1, kind="stable")[:, :k]
            near[rows], places[rows] = (np.take_along_axis(v, order, 1) for v in (values, numbers))
    return places, near


@functools.partial(jax.jit, static_argnames="k")
def best_of(a: Float[Array, "m d"], b: Float[Array, "n d"], k: int) -> tuple[Float[Array, "m k"], Int32[Array, "m k"]]:
    """The k largest cosines of rows with others that are not the same, and which these are."""
    cosine = cosines(a, b)
    return jax.lax.top_k(jnp.where(cosine > SAME, -jnp.inf, cosine), k)

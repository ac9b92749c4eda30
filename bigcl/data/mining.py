"""Pairs of examples that two models disagree about: CLIP-blind pairs, from embeddings of any two checkpoints.

    python -m bigcl.embed --checkpoint clip --data ... --out clip/embeddings       # and the same data by the other
    python -m bigcl.data blind-pairs --clip clip/embeddings --ssl dino/embeddings --out pairs.jsonl

A line for each pair: what both examples are called, their numbers in the source, and the cosines of both models.
Examples that are missing in either folder, bad records, are left out.
"""

import argparse
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int64
from tqdm import tqdm

from bigcl.embeddings import Shards
from bigcl.files import write_json_lines
from bigcl.losses.similarity import l2_normalize
from bigcl.registry import ConfigError


def main(argv: list[str]) -> None:
    """Parses, mines, writes, prints."""
    parser = argparse.ArgumentParser("python -m bigcl.data blind-pairs", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--clip", type=pathlib.Path, required=True, help="embeddings that bigcl.embed wrote")
    parser.add_argument("--ssl", type=pathlib.Path, required=True, help="those of the same data by the other model")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="a file of JSON lines")
    parser.add_argument("--input", default="image", help="the input that was embedded (default image)")
    parser.add_argument("--above", type=float, default=0.95, help="cosine of the first (default 0.95)")
    parser.add_argument("--below", type=float, default=0.6, help="cosine of the second (default 0.6)")
    args = parser.parse_args(argv)
    print(f"{args.out}: {mine(args.clip, args.ssl, args.out, args.input, args.above, args.below):,} pairs")


def mine(clip: pathlib.Path, ssl: pathlib.Path, out: pathlib.Path, name: str, above: float, below: float) -> int:
    """Writes the pairs that `blind_pairs` finds in two folders of embeddings of the input `name`; how many they are.

    Raises FileNotFoundError, and ConfigError for embeddings of different data or without this input.
    """
    shards = [Shards.open(folder) for folder in (clip, ssl)]
    if differing := [k for k in ("identity", "examples") if shards[0].manifest[k] != shards[1].manifest[k]]:
        ours, theirs = (s.manifest[differing[0]] for s in shards)
        raise ConfigError(f"--ssl: {ssl} is of other data than {clip}: {differing[0]} {theirs!r}, not {ours!r}")
    (indices, keys, alike), (others, _, different) = (s.table(name) for s in shards)
    both, first, second = np.intersect1d(indices, others, assume_unique=True, return_indices=True)
    sides = [np.asarray(l2_normalize(jnp.asarray(x))) for x in (alike[first], different[second])]
    pairs = blind_pairs(*sides, above=above, below=below)

    def line(i: int, j: int) -> dict[str, Any]:
        cosines = {k: round(float(x[i] @ x[j]), 6) for k, x in zip(("clip", "ssl"), sides, strict=True)}
        return {"keys": [keys[first[i]], keys[first[j]]], "indices": [int(both[i]), int(both[j])], **cosines}

    write_json_lines(out, (line(i, j) for i, j in pairs))
    return len(pairs)


def blind_pairs(
    alike: Float[Array, "n d"] | Float[np.ndarray, "n d"],
    different: Float[Array, "n e"] | Float[np.ndarray, "n e"],
    *,
    above: float = 0.95,
    below: float = 0.6,
    chunk: int = 4096,
) -> Int64[np.ndarray, "p 2"]:
    """All pairs i < j whose cosine is above a threshold in one model and below another in the second, in order.

    CLIP-blind pairs (Tong et al. 2024): images that CLIP takes for the same and a vision-only model does not, with
    cosines above 0.95 and below 0.6.

    alike, different: embeddings of the two models, row i of both of the same example; normalised here.
    chunk: rows and columns that are compared at once.
    """
    if len(alike) != len(different):
        raise ValueError(f"blind_pairs: row i of both must be the same example, got {len(alike)} and {len(different)}")
    sides = [np.asarray(l2_normalize(jnp.asarray(x))) for x in (alike, different)]
    starts = range(0, len(alike), chunk)
    found = [np.zeros((0, 2), np.int64)]
    for i in tqdm(starts, desc="pairs", disable=None if len(starts) > 1 else True):
        row: list[np.ndarray] = []
        for j in range(i, len(alike), chunk):
            hits = np.argwhere(
                np.asarray(disagree(*((x[i : i + chunk], x[j : j + chunk]) for x in sides), above, below))
            )
            row.append(hits[hits[:, 0] + i < hits[:, 1] + j] + [i, j])
        block = np.concatenate(row)
        found.append(block[np.lexsort((block[:, 1], block[:, 0]))])
    return np.concatenate(found)


@functools.partial(jax.jit, static_argnames=("above", "below"))
def disagree(
    alike: tuple[Array, Array], different: tuple[Array, Array], above: float, below: float
) -> Bool[Array, "m n"]:
    """Which of the pairs of some rows with some others are alike for one model and different for the other."""
    near, far = (cosines(*x) for x in (alike, different))
    return (near > above) & (far < below)


def cosines(a: Float[Array, "m d"], b: Float[Array, "n d"]) -> Float[Array, "m n"]:
    """Of rows of length 1."""
    return jnp.einsum("md,nd->mn", a, b, precision=jax.lax.Precision.HIGHEST)

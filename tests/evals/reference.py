"""Rankings written out the naive way, and toy encoders."""

import jax
import numpy as np

from bigcl.mesh import AXES


def mesh(devices):
    """A mesh over the first devices, the batch split over two of its axes where it can be."""
    replica = 2 if devices > 1 else 1
    shape = (replica, devices // replica, 1, 1)
    axis_types = (jax.sharding.AxisType.Auto,) * 4
    return jax.make_mesh(shape, AXES, axis_types=axis_types, devices=jax.devices()[:devices])


def unit(rng, rows, dim=16):
    """Random embeddings of length 1."""
    x = rng.standard_normal((rows, dim)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def naive_rank(queries, items, query_ids, item_ids):
    """One query at a time, one item at a time."""
    ranks = []
    for q, wanted in zip(queries, query_ids, strict=True):
        scores = [float(np.float64(q) @ np.float64(x)) for x in items]
        best = max(s for s, i in zip(scores, item_ids, strict=True) if i == wanted)
        ranks.append(1 + sum(s > best - 1e-9 for s, i in zip(scores, item_ids, strict=True) if i != wanted))
    return np.array(ranks)


def encode(batch):
    """An encoder for sources whose inputs are embeddings already."""
    return {k: v / np.linalg.norm(v, axis=1, keepdims=True) for k, v in batch.items() if k in ("image", "text")}

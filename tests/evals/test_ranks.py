"""Ranks against a naive count, over one device and eight."""

import jax
import numpy as np
import pytest

from bigcl.evals import ranks as module
from bigcl.evals.ranks import CHUNK, ROWS, best_first, compiled, count, ranks
from tests.evals.reference import mesh, naive_rank, unit


@pytest.mark.parametrize("chunk", [4, 1024])
@pytest.mark.parametrize("queries, items, classes", [(13, 13, 13), (8, 31, 5), (1, 3, 1), (40, 17, 6)])
def test_equals_naive_count_on_one_device_and_eight(queries, items, classes, chunk, monkeypatch):
    """With several positives for a query, rows that devices and chunks do not divide, and exact ties."""
    monkeypatch.setattr(module, "CHUNK", chunk)
    rng = np.random.default_rng(queries)
    q, x = unit(rng, queries), unit(rng, items)
    item_ids = np.concatenate([np.arange(classes), rng.integers(0, classes, items - classes)]).astype(np.int32)
    query_ids = rng.integers(0, classes, queries).astype(np.int32)
    x[items // 2 :] = x[: items - items // 2]  # twins, most of them with another id
    one, eight = (ranks(q, x, query_ids, item_ids, mesh(n)) for n in (1, 8))
    np.testing.assert_array_equal(one, naive_rank(q, x, query_ids, item_ids))
    np.testing.assert_array_equal(eight, one)


@pytest.mark.parametrize("value", [0.25, 0.0, np.nan])
def test_constant_embeddings_rank_last(value):
    rows, dim = 37, 24
    x = np.full((rows, dim), value, np.float32)
    ids = np.arange(rows, dtype=np.int32)
    np.testing.assert_array_equal(ranks(x, x, ids, ids, mesh(8)), np.full(rows, rows))


def test_one_broken_query_spoils_no_other():
    rng = np.random.default_rng(0)
    x = unit(rng, 9)
    ids, broken = np.arange(9, dtype=np.int32), x.copy()
    broken[4] = np.nan
    np.testing.assert_array_equal(ranks(broken, x, ids, ids, mesh(8)), np.where(ids == 4, 9, 1))


@pytest.mark.parametrize("function, static", [(count, ()), (best_first, (10,))])
def test_memory_of_a_million_items(function, static):
    """Temporaries of a search of 2^20 among 2^20 are those of one tile of scores, not of 4 TiB of them."""
    tiles, chunks, f, i = 2**20 // ROWS, 2**20 // CHUNK, np.float32, np.int32
    row, item = (tiles, ROWS), (chunks, CHUNK)
    rows = ((*row, 64), f), (row, i), ((*row, 0), i), ((*row, 0), i)
    shared = ((*item, 64), f), (item, i), (item, i)
    shapes = [tuple(jax.ShapeDtypeStruct(*x) for x in part) for part in (rows, shared)]
    memory = compiled(function, mesh(1), static).lower(*shapes).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 128 * 2**20

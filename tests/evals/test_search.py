"""Lists of right and hidden items: ranks and first items, and the evaluators that stand on them."""

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from bigcl import registry
from bigcl.evals import ranks as module
from bigcl.evals.embedding import unit as normalised
from bigcl.evals.ranks import even, first, ranks
from bigcl.registry import ConfigError
from tests.evals.reference import mesh, unit


def problem(queries=23, items=40, seed=0):
    """Queries, items, and for each query items to find and items that it must not see; some queries find nothing."""
    rng = np.random.default_rng(seed)
    q, x = unit(rng, queries), unit(rng, items)
    right = [sorted(rng.choice(items, rng.integers(0, 4), replace=False).tolist()) for _ in range(queries)]
    hidden = [sorted(rng.choice(items, rng.integers(0, 6), replace=False).tolist()) for _ in range(queries)]
    right[0] = [3]
    return q, x, right, hidden


def naive(q, x, right, hidden, k):
    """Rank of the best right item, hits among the first k, and nDCG, one query at a time."""
    out = []
    for query, good, away in zip(q, right, hidden, strict=True):
        away = set(away) - set(good)
        if not good:
            continue
        there = [i for i in range(len(x)) if i not in away]
        order = sorted(there, key=lambda i, query=query: -float(query @ x[i]))
        hits = [i in good for i in order]
        gain = ndcg_score(np.array([[i in good for i in there]], float), [[float(query @ x[i]) for i in there]], k=k)
        out.append((1 + hits.index(True), sum(hits[:k]) / len(good), gain, order[:k]))
    return out


@pytest.mark.parametrize("chunk, rows", [(7, 3), (1024, 2048)])
@pytest.mark.parametrize("devices", [1, 8])
def test_lists_against_a_naive_search(devices, chunk, rows, monkeypatch):
    """With chunks of items and tiles of rows that divide nothing."""
    monkeypatch.setattr(module, "CHUNK", chunk)
    monkeypatch.setattr(module, "ROWS", rows)
    q, x, right, hidden = problem()
    asked = [i for i, r in enumerate(right) if r]
    lists = {
        "right": even([right[i] for i in asked]),
        "hidden": even([sorted(set(hidden[i]) - set(right[i])) for i in asked]),
    }
    ids = np.full(len(asked), -1, np.int32), np.arange(len(x), dtype=np.int32)
    wanted = naive(q, x, right, hidden, 6)
    np.testing.assert_array_equal(ranks(q[asked], x, *ids, mesh(devices), **lists), [w[0] for w in wanted])
    places, scores, hits = first(q[asked], x, *ids, mesh(devices), k=6, **lists)
    np.testing.assert_array_equal(places, [w[3] for w in wanted])
    np.testing.assert_allclose(hits.sum(1) / [len(right[i]) for i in asked], [w[1] for w in wanted])
    np.testing.assert_allclose(scores, [x[p] @ q[i] for i, p in zip(asked, places, strict=True)], atol=3e-6)


def test_the_first_of_ties_are_negatives_and_the_absent_have_no_place():
    x = np.ones((5, 4), np.float32) / 2
    ids = np.array([0, 1, 2, 3, 4], np.int32)
    hidden = np.array([[1, 2, -1]], np.int32)
    places, _, hits = first(x[:1], x, ids[:1], ids, mesh(8), k=9, hidden=hidden)
    assert sorted(places[0, :2]) == [3, 4] and places[0, 2] == 0 and list(places[0, 3:]) == [-1, -1]
    np.testing.assert_array_equal(hits, [[False, False, True, False, False]])
    assert ranks(x[:1], x, ids[:1], ids, mesh(8), hidden=hidden) == 3


def test_what_is_not_a_number_comes_last():
    x = np.eye(3, dtype=np.float32)
    queries = np.full((1, 3), np.nan, np.float32)
    ids = np.arange(3, dtype=np.int32)
    assert not first(queries, x, ids[:1], ids, mesh(8), k=2)[2].any()


def arrays(**columns):
    return {"kind": "arrays", "arrays": columns}


def towers(batch):
    """Inputs that are embeddings already."""
    found = {k: normalised(v) for k, v in batch.items() if k in ("user", "item", "image", "text")}
    if "image" in batch and "text" in batch:
        found["both"] = normalised(batch["image"] - 0.5 * batch["text"])
    return found


def expected(q, x, right, hidden, ks=(1, 5, 10)):
    each = naive(q, x, right, hidden, max(ks))
    many = [len(r) for r in right if r]
    rank = np.array([w[0] for w in each])
    return {
        **{f"recall@{k}": np.mean(rank <= k) for k in ks},
        **{f"found@{k}": np.mean([w[1] for w in naive(q, x, right, hidden, k)]) for k in ks},
        **{
            f"precision@{k}": np.mean([w[1] * n / k for w, n in zip(naive(q, x, right, hidden, k), many, strict=True)])
            for k in ks
        },
        f"ndcg@{max(ks)}": np.mean([w[2] for w in each]),
        "median_rank": np.median(rank),
        "mean_reciprocal_rank": np.mean(1 / rank),
        "queries": len(rank),
    }


@pytest.mark.parametrize("devices", [1, 8])
def test_recommendation(devices):
    q, x, right, hidden = problem(items=41)
    names = [f"item {i}" for i in range(len(x))]
    part = {
        "kind": "recommendation",
        "source": arrays(
            user=q,
            target=[[names[i] for i in r] if len(r) != 1 else names[r[0]] for r in right],
            history=[[names[i] for i in h] for h in hidden],
        ),
        "items": arrays(item=x, id=names),
        "seen": "history",
        "batch": 16,
    }
    numbers = registry.build("evaluator", part, mesh=mesh(devices), tokenizer=None).run(towers)
    wanted = expected(q, x, right, hidden)
    assert numbers == pytest.approx({k.replace("recall@", "hit_rate@"): v for k, v in wanted.items()})


@pytest.mark.parametrize(("compose", "weights"), [("sum", None), ("sum", [1.0, -0.7]), ("both", None)])
def test_composed_retrieval(compose, weights):
    rng = np.random.default_rng(1)
    image, text, gallery = unit(rng, 19), unit(rng, 19), unit(rng, 30)
    target, reference = rng.integers(0, 15, 19), rng.integers(15, 30, 19)
    part = {
        "kind": "composed",
        "source": arrays(image=image, text=text, target=target, reference=reference),
        "items": arrays(image=gallery, id=np.arange(30)),
        "reference": "reference",
        "compose": compose,
        "weights": weights,
        "ks": [1, 5, 10],
    }
    numbers = registry.build("evaluator", part, mesh=mesh(8), tokenizer=None).run(towers)
    query = normalised(image - 0.5 * text if compose == "both" else image + (weights or [1, 1])[1] * text)
    wanted = expected(query, gallery, [[t] for t in target], [[r] for r in reference])
    assert numbers == pytest.approx({k: v for k, v in wanted.items() if not k.startswith(("found", "precision"))})


@pytest.mark.parametrize(
    "targets, ids, words",
    [
        ([[7]], [0, 1], "no item has the key 7"),
        ([0], [1, 1], "two items have the key 1"),
        ([None], [0, 1], "no query names"),
    ],
)
def test_keys_that_do_not_fit(targets, ids, words):
    x = np.eye(2, dtype=np.float32)
    part = {"kind": "recommendation", "source": arrays(user=x[:1], target=targets), "items": arrays(item=x, id=ids)}
    with pytest.raises(ConfigError, match=words):
        registry.build("evaluator", part, mesh=mesh(1), tokenizer=None).run(towers)

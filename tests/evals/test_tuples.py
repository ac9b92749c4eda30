"""Finding one input from the others."""

import numpy as np

from bigcl import registry


def plain(batch):
    """Inputs that are embeddings already."""
    return {k: batch[k] for k in ("a", "b", "c") if k in batch}


def test_only_those_who_ask_are_counted_and_all_values_are_candidates():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((5, 4)).astype(np.float32)
    own = np.arange(41) % 5
    a, b = values[own], (values[own] + rng.standard_normal((41, 4))).astype(np.float32)
    c = (values[own] + rng.standard_normal((41, 4))).astype(np.float32)
    asks = own < 2
    arrays = {"a": a, "b": b, "c": c, "asks": asks}
    part = {"kind": "tuples", "source": {"kind": "arrays", "arrays": arrays}, "find": "a", "given": ["b", "c"]}
    for score, query in (("sum", b + c), ("product", b * c)):
        right = (query @ values.T).argmax(1) == own
        assert 0 < right[asks].mean() < 1 and right[asks].mean() != right.mean()
        numbers = registry.build("evaluator", {**part, "score": score, "asking": "asks"}).run(plain)
        assert numbers == {"accuracy": right[asks].mean(), "chance": 0.2, "examples": 17}
        assert registry.build("evaluator", {**part, "score": score}).run(plain)["accuracy"] == right.mean()

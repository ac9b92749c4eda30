"""A mixture deals its positions by weight, and each of its sources comes whole before it comes again."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigcl.data.loader import Loader
from bigcl.data.mixture import Mixture, table
from bigcl.experiment import Experiment
from bigcl.log import read_rows
from bigcl.registry import ConfigError, build
from bigcl.train import run
from tests.problems import MLPS

SIZES = {"a": 37, "b": 100, "c": 8}
WEIGHTS = st.lists(st.floats(0.01, 100), min_size=1, max_size=6)
FULL = {"shuffle": True, "block": None, "window": 16}


def numbers(size, offset=0):
    return {"kind": "arrays", "arrays": {"value": list(range(offset, offset + size))}}


def mixture(sizes=SIZES, **options):
    firsts = itertools.accumulate([0, *sizes.values()])
    return Mixture({k: numbers(n, first) for (k, n), first in zip(sizes.items(), firsts, strict=False)}, **options)


def named(weights, size=50):
    sizes = {f"s{i}": size for i in range(len(weights))}
    return mixture(sizes, weights=dict(zip(sizes, weights, strict=True)))


def take(loader, count, start=0):
    batches = loader.batches(start)
    try:
        return [next(batches) for _ in range(count)]
    finally:
        batches.close()


def test_holds_all_examples_of_its_sources():
    source = mixture()
    assert len(source) == 145 and [source[i]["value"] for i in range(145)] == list(range(145))
    assert source.which(np.array([0, 36, 37, 136, 137, 144])).tolist() == [0, 0, 1, 1, 2, 2]
    with pytest.raises(IndexError, match="index 145 of 145"):
        source[145]


@given(weights=WEIGHTS, start=st.integers(0, 2**45))
@settings(max_examples=60, deadline=None)
def test_each_position_is_dealt_to_one_source(weights, start):
    order = named(weights).order(seed=0, batch=8, **FULL)
    counts = order.counts(start + np.arange(200))
    assert (counts.sum(0) == start + np.arange(200)).all()
    steps = np.diff(counts, axis=1)
    assert ((steps == 0) | (steps == 1)).all()


@given(weights=WEIGHTS)
@settings(max_examples=60, deadline=None)
def test_counts_stay_near_the_weights(weights):
    order = named(weights).order(seed=0, batch=8, **FULL)
    exact = np.outer(np.array(weights) / sum(weights), np.arange(5000))
    assert np.abs(order.counts(np.arange(5000)) - exact).max() <= len(weights) / 2


@given(weights=WEIGHTS, seed=st.integers(0, 99), block=st.sampled_from([None, 7]), homogeneous=st.booleans())
@settings(max_examples=30, deadline=None)
def test_every_source_comes_whole_before_it_comes_again(weights, seed, block, homogeneous):
    source = named(weights, size=11)
    source.homogeneous = homogeneous
    order = source.order(seed=seed, batch=4, shuffle=True, block=block, window=2)
    index = order(np.arange(800))
    which, seen = source.which(index), 0
    for number in range(len(weights)):
        own = index[which == number] - source.first[number]
        for start in range(0, len(own) - 10, 11):
            assert sorted(own[start : start + 11]) == list(range(11))
            seen += 1
    assert seen >= 800 // 11 - len(weights)


def test_by_default_all_sources_end_their_epochs_together():
    index = mixture().order(seed=1, batch=4, **FULL)(np.arange(3 * 145))
    for epoch in range(3):
        assert sorted(index[epoch * 145 : (epoch + 1) * 145]) == list(range(145))


def test_shares_of_sizes_beyond_32_bits():
    source = mixture({"a": 1, "b": 1, "c": 1})
    source.weights = {"a": 3_000_000_007, "b": 2_999_999_999, "c": 1}
    order = source.order(seed=0, batch=4, **FULL)
    assert order.shares[-1] == 1 and all(share.denominator <= 2**31 for share in order.shares)
    counts = order.counts(np.array([6_000_000_007]))[:, 0]
    assert counts.sum() == 6_000_000_007 and np.abs(counts - list(source.weights.values())).max() <= 2


def test_sources_have_orders_of_their_own():
    source = mixture({"a": 50, "b": 50})
    index = source.order(seed=0, batch=4, **FULL)(np.arange(100))
    assert (index[source.which(index) == 0] != index[source.which(index) == 1] - 50).any()


@pytest.mark.parametrize("homogeneous", [False, True])
@pytest.mark.parametrize("block", [None, 5])
def test_batches_are_the_same_for_any_hosts_workers_and_start(homogeneous, block):
    source = mixture(weights={"a": 0.2, "b": 0.7, "c": 0.1}, homogeneous=homogeneous)
    options = {"batch": 24, "seed": 3, "block": block, "window": 3}
    whole = take(Loader(source, [], **options), 6)
    others = [take(Loader(source, [], **options), 3, start=3)]
    if homogeneous and block:
        others.append(take(Loader(source, [], workers=2, **options), 3, start=3))
    for hosts in (2, 3, 8):
        parts = [take(Loader(source, [], process_index=p, process_count=hosts, **options), 3, 3) for p in range(hosts)]
        others.append([{k: np.concatenate([part[i][k] for part in parts]) for k in parts[0][0]} for i in range(3)])
    for other in others:
        for batch, expected in zip(other, whole[3:], strict=True):
            assert batch.keys() == expected.keys() == {"value", "index", "source"}
            for key in batch:
                np.testing.assert_array_equal(batch[key], expected[key])
    for batch in whole:
        assert batch["source"].dtype == np.int32 and (batch["value"] == batch["index"]).all()
        assert (batch["source"] == source.which(batch["value"])).all()
        assert (len(set(batch["source"].tolist())) == 1) == homogeneous


def test_mixtures_of_mixtures():
    inner = {"kind": "mixture", "sources": {"a": numbers(5), "b": numbers(10, 5)}, "weights": {"a": 1, "b": 1}}
    source = Mixture({"inner": inner, "c": numbers(15, 15)}, weights={"inner": 3, "c": 1})
    value = np.array([source[i]["value"] for i in source.order(seed=0, batch=8, **FULL)(np.arange(4000)).tolist()])
    assert [(value < 5).sum(), ((value >= 5) & (value < 15)).sum(), (value >= 15).sum()] == [1500, 1500, 1000]


@pytest.mark.parametrize("kind, homogeneous", [("infonce", False), ("sigmoid", False), ("infonce", True)])
def test_the_log_has_the_loss_of_each_source(kind, homogeneous, tmp_path):
    spec = {"a": {"shape": [6]}, "b": {"shape": [3]}}
    sources = {f"s{n}": {"kind": "synthetic", "size": n, "spec": spec, "seed": n} for n in (30, 10, 20)}
    config = {
        "train": {"steps": 6, "batch": 16, "log_every": 1 if not homogeneous else 3, "profile": 0},
        "data": {"source": {"kind": "mixture", "sources": sources, "homogeneous": homogeneous}},
        "task": {**MLPS, "losses": [{"kind": kind, "of": ["a", "b"]}]},
        "optim": {"optimizer": {"kind": "sgd"}, "lr": 0.1},
    }
    run(config, tmp_path)
    rows, source = read_rows(tmp_path / "metrics.jsonl"), build("source", config["data"]["source"])
    experiment = Experiment(**Experiment.resolve(config))
    which = [source.which(experiment.loader.indices(step)) for step in range(6)]
    if homogeneous:
        for row, steps in zip(rows, (which[:3], which[3:]), strict=True):
            assert {k for k in row if k.startswith("loss_of/")} == {f"loss_of/s{(30, 10, 20)[w[0]]}" for w in steps}
        return
    for row, numbers in zip(rows, which, strict=True):
        seen = np.bincount(np.concatenate(which[: row["step"]]))
        assert [row[f"epochs_of/{name}"] for name in sources] == (seen / [30, 10, 20]).tolist()
        means = [row[f"loss_of/{name}"] for name in sources]
        np.testing.assert_allclose(np.average(means, weights=np.bincount(numbers)), row["loss"], rtol=1e-5)
    state = experiment.init()
    task = experiment.skeleton.merge(state.params, state.extra)
    batch = {k: jnp.asarray(v) for k, v in experiment.loader.host_batch(0).items() if k in spec}
    z = {k: np.asarray(v, np.float64) for k, v in task.encode(batch).items()}
    logits = z["a"] @ z["b"].T * rows[0]["logit_scale"] + rows[0].get("bias", 0)
    own = np.diag(logits)
    if kind == "infonce":
        terms = (np.log(np.exp(logits).sum(0)) + np.log(np.exp(logits).sum(1))) / 2 - own
    else:
        pairs = np.log1p(np.exp(logits)) * (1 - np.eye(16))
        terms = np.log1p(np.exp(-own)) + (pairs.sum(0) + pairs.sum(1)) / 2
    for number, name in enumerate(sources):
        np.testing.assert_allclose(rows[0][f"loss_of/{name}"], terms[which[0] == number].mean(), rtol=1e-4)


def test_a_table_says_what_a_run_takes():
    rows = mixture({"a": 50, "b": 400}, weights={"a": 1, "b": 3}).expect(steps=10, batch=40)
    assert rows == [("a", 50, 0.25, 2.0), ("b", 400, 0.75, 0.75)]
    assert table(rows)[1].split() == ["a", "50", "25.00%", "2.00"]
    (row, _) = mixture({"a": 50, "b": 400}, weights={"a": 1, "b": 1}, homogeneous=True).expect(steps=10, batch=40)
    assert row.epochs == 4.0


@pytest.mark.parametrize(
    "options, message",
    [
        ({"weights": {"a": 1, "b": 1, "d": 2}}, "weights.d: no such source; known: a, b, c"),
        ({"weights": {"a": 1, "b": 1}}, "weights.c: expected a number above 0, got None"),
        ({"weights": {"a": 1, "b": 0, "c": 1}}, "weights.b: expected a number above 0, got 0"),
        ({"sources": {}}, "mixture.sources: none"),
        ({"sources": {"a": {"kind": "arrays", "arrayz": {}}}}, "arrayz: unknown key"),
    ],
)
def test_mistakes(options, message):
    sources = {k: numbers(n) for k, n in SIZES.items()}
    with pytest.raises(ConfigError, match=message):
        build("source", {"kind": "mixture", "sources": sources, **options})


def test_a_filter_would_lose_the_weights():
    with pytest.raises(ValueError, match="filter its sources instead"):
        build(
            "source",
            {"kind": "filtered", "source": {"kind": "mixture", "sources": {"a": numbers(3)}}, "filter": "value > 1"},
        )

"""Probes of frozen embeddings against scikit-learn: kNN, linear probe, few shots, regression, clusters."""

import itertools

import jax
import numpy as np
import pytest
import scipy.stats
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV
from sklearn.metrics import adjusted_rand_score, balanced_accuracy_score, normalized_mutual_info_score, r2_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from bigcl import registry
from bigcl.evals.clustering import matched_accuracy
from bigcl.evals.few_shot import draw
from bigcl.evals.kmeans import assign, kmeans, plus_plus
from bigcl.evals.ranks import in_tiles
from bigcl.registry import ConfigError
from tests.evals.reference import encode, mesh, unit

DEVICES = pytest.mark.parametrize("devices", [1, 8])


def build(kind, arrays, train=None, devices=8, **options):
    """An evaluator on arrays."""
    source = {"source": {"kind": "arrays", "arrays": arrays}}
    if train is not None:
        source["train"] = {"kind": "arrays", "arrays": train}
    part = {"kind": kind, **source, "batch": 16, **options}
    return registry.build("evaluator", part, mesh=mesh(devices), tokenizer=None)


def data(rows, seed, classes=5):
    """Embeddings around the middle of their class; names as labels."""
    middles = unit(np.random.default_rng(99), classes)
    rng = np.random.default_rng(seed)
    target = rng.integers(0, classes, rows)
    x = encode({"image": middles[target] + 0.9 * unit(rng, rows)})["image"]
    return x, np.array([f"class {t}" for t in target])


def scores(target, predicted):
    return np.mean(target == predicted), balanced_accuracy_score(target, predicted)


@DEVICES
@pytest.mark.parametrize("temperature", [None, 0.07])
def test_knn(devices, temperature):
    (x, y), (q, t) = data(83, 0), data(37, 1)
    test = {"image": np.concatenate([q, q[:2]]), "label": [*t, None, None]}
    numbers = build("knn", test, {"image": x, "label": y}, devices, ks=[1, 4, 9], temperature=temperature).run(encode)
    weights = "uniform" if temperature is None else lambda distance: np.exp(-distance / temperature)
    for k in (1, 4, 9):
        peer = KNeighborsClassifier(k, weights=weights, metric="cosine", algorithm="brute").fit(x, y)
        found = numbers[f"accuracy@{k}"], numbers[f"mean_per_class_accuracy@{k}"]
        assert found == pytest.approx(scores(t, peer.predict(q)))
    assert numbers["examples"] == 37


def test_more_neighbours_than_examples_and_a_class_that_is_new():
    x, y = data(6, 0)
    assert build("knn", {"image": x, "label": y}, {"image": x, "label": y}, ks=[50]).run(encode)["examples"] == 6
    with pytest.raises(ConfigError, match="'new' does not occur in the training set"):
        build("knn", {"image": x[:1], "label": ["new"]}, {"image": x, "label": y}).run(encode)


@DEVICES
def test_linear_probe(devices):
    (x, y), (q, t) = data(90, 2), data(40, 3)
    evaluator = build("linear_probe", {"image": q, "label": t}, {"image": x, "label": y}, devices, strengths=[1e-2])
    numbers = evaluator.run(encode)
    peer = LogisticRegression(C=1 / (90 * 1e-2), tol=1e-8, max_iter=10_000).fit(x.astype(np.float64), y)
    assert (numbers["accuracy"], numbers["mean_per_class_accuracy"]) == pytest.approx(scores(t, peer.predict(q)))
    names = np.array(evaluator.artifacts["classes"])
    np.testing.assert_array_equal(names[evaluator.artifacts["predicted"]], peer.predict(q))


def test_linear_probe_chooses_on_held_out_examples():
    (x, y), (q, t) = data(90, 2), data(40, 3)
    path = [1e-4, 1e-2, 1.0]
    numbers = build("linear_probe", {"image": q, "label": t}, {"image": x, "label": y}, strengths=path).run(encode)
    order = np.random.default_rng(0).permutation(90)
    held, kept = order[:18], order[18:]
    accuracy = [
        np.mean(LogisticRegression(C=1 / (72 * s), max_iter=10_000).fit(x[kept], y[kept]).predict(x[held]) == y[held])
        for s in path
    ]
    assert numbers["strength"] == max(zip(accuracy, path, strict=True))[1]


@DEVICES
def test_few_shot(devices):
    (x, y), (q, t) = data(90, 4), data(40, 5)
    options = {"shots": [1, 6, 1000], "repeats": 2, "strengths": [1e-3]}
    numbers = build("few_shot", {"image": q, "label": t}, {"image": x, "label": y}, devices, **options).run(encode)
    names, target = np.unique(y, return_inverse=True)
    for shots in (1, 6, 1000):
        each = []
        for seed in range(2):
            some = draw(target, shots, seed)
            assert max(np.bincount(target[some])) <= shots and len(np.unique(target[some])) == len(names)
            peer = Ridge(alpha=len(some) * 1e-3).fit(
                x[some].astype(np.float64), 2.0 * np.eye(len(names))[target[some]] - 1
            )
            each.append(np.mean(names[peer.predict(q).argmax(1)] == t))
        assert numbers[f"accuracy@{shots}"] == pytest.approx(np.mean(each))
        assert numbers[f"deviation@{shots}"] == pytest.approx(np.std(each))
    assert numbers["deviation@1000"] == 0


def test_few_shots_of_several_inputs_side_by_side():
    rng = np.random.default_rng(7)
    parts = {split: {k: unit(rng, rows) for k in ("image", "text")} for split, rows in (("train", 30), ("test", 20))}
    labels = {split: rng.integers(0, 3, len(part["image"])) for split, part in parts.items()}
    arrays = {split: {**part, "label": labels[split]} for split, part in parts.items()}
    options = {"item": ["image", "text"], "standardize": True, "shots": [1000], "repeats": 1, "strengths": [1e-2]}
    evaluator = build("few_shot", arrays["test"], arrays["train"], **options)
    numbers = evaluator.run(encode)
    x, q = (np.concatenate([encode(part)[k] for k in ("image", "text")], 1) for part in parts.values())
    scaler = StandardScaler().fit(x)
    peer = Ridge(alpha=30 * 1e-2).fit(scaler.transform(x), 2.0 * np.eye(3)[labels["train"]] - 1)
    predicted = peer.predict(scaler.transform(q)).argmax(1)
    np.testing.assert_array_equal(evaluator.artifacts["predicted/1000"][0], predicted)
    assert numbers["accuracy@1000"] == pytest.approx(np.mean(predicted == labels["test"]))


@DEVICES
def test_regression(devices):
    """Against RidgeCV inside each fold."""
    rng = np.random.default_rng(6)
    x = unit(rng, 61)
    y = np.round(x @ rng.standard_normal(16) * 3 + rng.standard_normal(61))  # with ties
    values = [*y, None]
    strengths = [1e-4, 1e-2, 1.0]
    arrays = {"image": np.concatenate([x, x[:1]]), "value": values}
    evaluator = build("regression", arrays, devices=devices, folds=4, strengths=strengths)
    numbers = evaluator.run(encode)
    predicted = np.empty(61)
    for held in np.array_split(np.random.default_rng(0).permutation(61), 4):
        kept = np.setdiff1d(np.arange(61), held)
        peer = RidgeCV(alphas=[len(kept) * s for s in strengths]).fit(x[kept].astype(np.float64), y[kept])
        predicted[held] = peer.predict(x[held])
    assert numbers["r2"] == pytest.approx(r2_score(y, predicted), abs=1e-4)
    assert numbers["spearman"] == pytest.approx(scipy.stats.spearmanr(y, predicted).statistic, abs=1e-3)
    np.testing.assert_allclose(evaluator.artifacts["predicted"], predicted, atol=1e-3)
    assert numbers["mae"] == pytest.approx(np.abs(y - predicted).mean(), abs=1e-3)


def test_regression_fitted_to_another_set():
    rng = np.random.default_rng(8)
    x, q = unit(rng, 50), unit(rng, 20)
    direction = rng.standard_normal(16)
    y, t = (z @ direction + 0.1 * rng.standard_normal(len(z)) for z in (x, q))
    part = {"image": q, "value": t}
    numbers = build("regression", part, {"image": x, "value": y}, strengths=[1e-3, 1e-1]).run(encode)
    predicted = RidgeCV(alphas=[0.05, 5.0]).fit(x.astype(np.float64), y).predict(q)
    assert numbers["mae"] == pytest.approx(np.abs(t - predicted).mean(), abs=1e-4)
    assert numbers["r2"] == pytest.approx(r2_score(t, predicted), abs=1e-3)


def test_ordering():
    """The angle on a half circle is its own order; of anything else scipy says how far it is one."""
    rng = np.random.default_rng(9)
    angle = rng.uniform(0, 3, 21)  # evenly spaced, rounding would order equal differences
    circle = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
    perfect = build("ordering", {"image": circle, "value": angle}).run(lambda batch: {"image": batch["image"]})
    assert perfect == {"spearman": pytest.approx(1, abs=1e-3), "examples": 21}
    x, y = unit(rng, 15), rng.integers(0, 6, 15).astype(float)
    arrays = {"image": np.concatenate([x, x[:2]]), "value": [*y, None, None]}
    pairs = list(itertools.combinations(range(15), 2))
    z = encode({"image": x})["image"]
    wanted = scipy.stats.spearmanr([1 - z[i] @ z[j] for i, j in pairs], [abs(y[i] - y[j]) for i, j in pairs]).statistic
    assert build("ordering", arrays).run(encode)["spearman"] == pytest.approx(wanted, abs=1e-5)
    assert build("ordering", arrays, most=8).run(encode)["examples"] == 8
    with pytest.raises(ConfigError, match="three or more"):
        build("ordering", {"image": x, "value": [1.0, 2.0, *[None] * 13]}).run(encode)


def test_regression_of_a_constant_and_of_nothing():
    x = unit(np.random.default_rng(0), 12)
    numbers = build("regression", {"image": x, "value": [3.0] * 12}).run(encode)
    assert numbers["r2"] == numbers["spearman"] == 0
    with pytest.raises(ConfigError, match="fewer than the folds"):
        build("regression", {"image": x, "value": [3.0, 1.0] + [None] * 10}).run(encode)


@DEVICES
@pytest.mark.parametrize("rows", [40, 333])
def test_k_means_reaches_the_sum_of_squares_of_scikit_learn(rows, devices, monkeypatch):
    monkeypatch.setattr("bigcl.evals.ranks.ROWS", 16)
    x, _ = data(rows, 5, classes=7)
    found = kmeans(x, 7, mesh(devices), seed=3)
    middles = np.stack([x[found == c].mean(0) for c in range(7)])
    peer = KMeans(7, n_init=10, random_state=0, tol=1e-4).fit(x.astype(np.float64))
    assert np.square(x - middles[found]).sum() <= 1.02 * peer.inertia_
    np.testing.assert_array_equal(found, kmeans(x, 7, mesh(1), seed=3))


def test_a_run_of_k_means_is_that_of_scikit_learn_from_the_same_start():
    x, _ = data(300, 8, classes=4)
    tiles = in_tiles((x, np.ones(len(x), bool)), mesh(8))
    start = plus_plus(*tiles, jax.random.key(1), 4)
    assert all((np.abs(x - c).max(1) == 0).sum() == 1 for c in np.asarray(start))  # different examples
    peer = KMeans(4, init=np.asarray(start, np.float64), n_init=1, tol=0).fit(x.astype(np.float64))
    centres = start
    for _ in range(peer.n_iter_ + 1):
        labels, inertia, (sums, counts) = assign(*tiles, centres)
        centres = sums / counts[:, None]
    assert float(inertia) == pytest.approx(peer.inertia_, rel=1e-4)
    np.testing.assert_array_equal(np.ravel(labels)[:300], peer.labels_)


@DEVICES
def test_clusters(devices):
    x, y = data(120, 7)
    arrays = {"image": np.concatenate([x, x[:3]]), "label": [*y, None, None, None]}
    evaluator = build("clustering", arrays, devices=devices)
    numbers = evaluator.run(encode)
    target, found = evaluator.artifacts["labels"], evaluator.artifacts["clusters"]
    assert len(found) == 120 and len(np.unique(found)) == 5
    assert numbers["nmi"] == pytest.approx(normalized_mutual_info_score(target, found))
    assert numbers["ari"] == pytest.approx(adjusted_rand_score(target, found))
    assert 0.4 < numbers["accuracy"] <= 1
    assert numbers == build("clustering", arrays, devices=1).run(encode)
    single = build("clustering", {"image": x, "label": ["same"] * 120}).run(encode)
    assert single["accuracy"] == 1 and single["ari"] == 1


def test_clusters_are_matched_by_the_best_assignment():
    rng = np.random.default_rng(0)
    target, found = rng.integers(0, 4, 50), rng.integers(0, 4, 50)
    best = max(np.mean(np.array(p)[found] == target) for p in itertools.permutations(range(4)))
    assert matched_accuracy(target, found) == pytest.approx(best)

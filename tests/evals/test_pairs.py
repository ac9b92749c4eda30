"""Judged pairs, rated similarity, several labels, several languages, geometry: each against its definition."""

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats
from sklearn.metrics import average_precision_score, label_ranking_average_precision_score

from bigcl import registry
from bigcl.embeddings import Rows, Shards
from bigcl.evals import pairs
from bigcl.evals.embedding import unit as normalised
from bigcl.registry import ConfigError
from tests.evals.reference import mesh, naive_rank, unit


class Letters:
    """A tokenizer of one id per letter."""

    def __call__(self, text, length):
        return np.array([[ord(c) % 128 for c in t[:length].ljust(length)] for t in text], np.int32)


TABLE = np.random.default_rng(0).standard_normal((24, 128, 16)).astype(np.float32)


def embed_text(text):
    return normalised(sum(TABLE[i][text[:, i]] for i in range(text.shape[1])))


def encode(batch):
    """Tokens by a random table; what is a vector already, as it is."""
    found = {}
    for name in ("image", "text"):
        if name in batch:
            found[name] = embed_text(batch[name]) if batch[name].dtype == np.int32 else normalised(batch[name])
    return found


def build(kind, devices=8, **options):
    part = {"kind": kind, "batch": 8, **options}
    return registry.build("evaluator", part, mesh=mesh(devices), tokenizer=Letters())


def arrays(**columns):
    return {"kind": "arrays", "arrays": columns}


def test_one_item_and_several_texts():
    """ARO and SugarCrepe."""
    rng = np.random.default_rng(0)
    image, text, first, second = (unit(rng, 30) for _ in range(4))
    text = normalised(text + image)
    first[:3] = text[:3]  # a text that cannot be told from the right one
    kinds = ["swap", "add", None] * 10
    source = arrays(image=image, text=text, negative=first, other=second, kind=kinds)
    evaluator = build("pairs", source=source, texts=["text", "negative", "other"], category="kind")
    right = [i @ t > max(i @ n, i @ m) + 1e-6 for i, t, n, m in zip(image, text, first, second, strict=True)]
    by_kind = {k: np.mean([r for r, kind in zip(right, kinds, strict=True) if kind == k]) for k in ("swap", "add")}
    assert evaluator.run(encode) == pytest.approx(
        {
            "text_score": np.mean(right),
            "chance": 1 / 3,
            "examples": 30,
            **{f"{k}/text_score": v for k, v in by_kind.items()},
            "mean/text_score": np.mean(list(by_kind.values())),
        }
    )


def test_two_items_and_two_texts():
    """Winoground's three scores, written as in the paper."""
    rng = np.random.default_rng(1)
    t0, t1, noise0, noise1 = (unit(rng, 60) for _ in range(4))
    i0, i1 = normalised(t0 + 2.5 * noise0), normalised(t1 + 2.5 * noise1)
    source = arrays(image_0=i0, image_1=i1, text_0=t0, text_1=t1)
    numbers = build("pairs", source=source, items=["image_0", "image_1"], texts=["text_0", "text_1"]).run(encode)
    s = lambda c, i: (c * i).sum(1)  # noqa: E731
    text = (s(t0, i0) > s(t1, i0)) & (s(t1, i1) > s(t0, i1))
    image = (s(t0, i0) > s(t0, i1)) & (s(t1, i1) > s(t1, i0))
    wanted = {"text_score": text, "image_score": image, "group_score": text & image}
    assert 0 < np.mean(text & image) < np.mean(text)
    assert numbers == pytest.approx({**{k: np.mean(v) for k, v in wanted.items()}, "chance": 0.25, "examples": 60})
    constant = {"image_0": i0, "image_1": i0, "text_0": t0, "text_1": t0}
    blind = build("pairs", source=arrays(**constant), items=["image_0", "image_1"], texts=["text_0", "text_1"])
    assert blind.run(encode)["text_score"] == blind.run(encode)["image_score"] == 0
    with pytest.raises(ConfigError, match="as many as texts"):
        build("pairs", source=source, items=["image_0", "image_1"], texts=["a", "b", "c"])


@pytest.mark.parametrize("ties", ["wrong", "first", "last"])
@pytest.mark.parametrize("tie", [0.0, 1e-6])
def test_of_equal_scores_the_first_or_the_last_is_chosen(ties, tie):
    """Scores of two items and texts, of which one row, one column, or all are equal; by their order, one by one."""
    rng = np.random.default_rng(4)
    scores = rng.integers(0, 2, (64, 2, 2)) + rng.uniform(-0.2, 0.2, (64, 2, 2)) * tie
    if tie:
        assert (np.diff(scores, axis=2) != 0).all()
    else:
        assert (np.diff(scores, axis=2) == 0).any()
    found = pairs.judge(scores, ties, tie)

    def picked(values):
        equal = abs(values[0] - values[1]) <= tie
        return {"wrong": -1, "first": 0, "last": 1}[ties] if equal else int(values[1] > values[0])

    for k, s in enumerate(scores):
        assert found["text_score"][k] == all(picked(s[i]) == i for i in range(2))
        assert found["image_score"][k] == all(picked(s[:, t]) == t for t in range(2))
    order = rng.integers(0, 3, (50, 1, 5)).astype(float)
    if ties != "last":
        wanted = order[:, 0].argmax(1) == 0
        wanted &= (order[:, 0].max(1, keepdims=True) == order[:, 0]).sum(1) == 1 if ties == "wrong" else True
        np.testing.assert_array_equal(pairs.judge(order, ties)["text_score"], wanted)


def test_blind_pairs_are_mined_and_scored():
    """Every pair judged one by one: which are mined, and how many of these and of all are told apart."""
    rng, size = np.random.default_rng(5), 40
    image, other = unit(rng, size, 4), unit(rng, size, 4)
    text = normalised(image + 0.3 * unit(rng, size, 4))
    source = arrays(image=image, text=text, ssl=other)
    options = {"source": source, "different": "ssl", "nearest": 0.1, "farthest": 0.4}
    evaluator = build("blind_pairs", **options)
    numbers = evaluator.run(lambda batch: {k: batch[k] for k in ("image", "text", "ssl")})
    every = sorted(((i, j) for i in range(size) for j in range(i + 1, size)), key=lambda p: -image[p[0]] @ image[p[1]])
    near = sorted(every[: len(every) // 10], key=lambda p: other[p[0]] @ other[p[1]])
    mined = near[: int(numbers["pairs"])]
    assert 0.4 * len(near) <= len(mined) <= 0.4 * len(near) + 2
    assert {tuple(p) for p in evaluator.artifacts["pairs"].tolist()} == set(mined)

    def right(i, j):
        return text[i] @ image[i] > text[i] @ image[j] and text[j] @ image[j] > text[j] @ image[i]

    blind, usual = (np.mean([right(*p) for p in some]) for some in (mined, every))
    assert blind < usual
    assert numbers["blind/image_score"] == pytest.approx(blind)
    assert numbers["random/image_score"] == pytest.approx(usual)
    assert numbers["drop/image_score"] == pytest.approx(usual - blind)
    with pytest.raises(ConfigError, match=r"blind_pairs\.nearest: expected a share in \(0, 1\], got 0\.0"):
        build("blind_pairs", **{**options, "nearest": 0.0})


def test_a_third_input_may_be_scored_on_blind_pairs():
    """Which pairs are mined does not depend on it."""
    rng = np.random.default_rng(6)
    columns = {k: unit(rng, 30, 4) for k in ("image", "ssl", "text")}
    source = arrays(**columns, mixed=columns["text"])
    found = {}
    for item in ("image", "mixed"):
        evaluator = build("blind_pairs", source=source, different="ssl", item=item, nearest=0.2)
        found[item] = evaluator.run(lambda batch: {k: v for k, v in batch.items() if k != "index"})
        found[item]["which"] = evaluator.artifacts["pairs"].tolist()
    assert found["image"]["which"] == found["mixed"]["which"]
    assert (
        found["mixed"]["blind/image_score"]
        == found["mixed"]["random/image_score"]
        == 1
        > found["image"]["random/image_score"]
    )


def test_a_million_pairs_stand_for_all(monkeypatch):
    monkeypatch.setattr(pairs, "LIMIT", 500)
    assert len(pairs.some_pairs(32)) == 32 * 31 // 2
    some = pairs.some_pairs(100)
    assert some.shape == (500, 2) and (some[:, 0] < some[:, 1]).all() and some.min() >= 0 and some.max() < 100
    assert len(np.unique(some)) == 100


def test_rated_similarity():
    rng = np.random.default_rng(2)
    a, b = unit(rng, 41), unit(rng, 41)
    score = np.round((a * b).sum(1) * 4 + rng.standard_normal(41))  # with ties
    values = [None if i == 5 else v for i, v in enumerate(score)]
    kinds = ["news", "forum"] * 20 + ["news"]
    source = arrays(text_0=a, text_1=b, score=values, kind=kinds)
    numbers = build("similarity", source=source, category="kind").run(encode)
    keep = np.arange(41) != 5
    cosine = (a * b).sum(1)[keep].astype(np.float64)
    assert numbers["spearman"] == pytest.approx(scipy.stats.spearmanr(cosine, score[keep]).statistic)
    assert numbers["pearson"] == pytest.approx(scipy.stats.pearsonr(cosine, score[keep]).statistic, abs=1e-6)
    news = np.array(kinds)[keep] == "news"
    assert numbers["news/spearman"] == pytest.approx(scipy.stats.spearmanr(cosine[news], score[keep][news]).statistic)
    assert numbers["examples"] == 40
    same = build("similarity", source=arrays(text_0=a, text_1=a, score=score)).run(encode)
    assert set(same) == {"spearman", "pearson", "examples"}
    assert build("similarity", source=arrays(text_0=a, text_1=b, score=np.ones(41))).run(encode)["spearman"] == 0


def test_several_labels():
    """Classes that nobody has, examples of none, and examples that are not annotated."""
    rng = np.random.default_rng(3)
    names = ["cat", "dog", "emu", "fox"]
    image = unit(rng, 33)
    image[10:15] = image[:5]  # ties
    labels = [sorted({names[j] for j in rng.integers(0, 3, rng.integers(0, 4))}) for _ in range(33)]
    labels[4] = None
    evaluator = build("multi_label", source=arrays(image=image, labels=labels), classes=names, length=24)
    numbers = evaluator.run(encode)
    keep = [i for i in range(33) if i != 4]
    scores = image[keep] @ embed_text(Letters()(names, 24)).T
    right = np.array([[n in labels[i] for n in names] for i in keep])
    seen, some = right.any(0), right.any(1)
    assert list(seen) == [True, True, True, False] and not some.all()
    np.testing.assert_allclose(evaluator.artifacts["scores"], scores, atol=1e-6)
    scores = evaluator.artifacts["scores"]
    assert numbers["mean_average_precision"] == pytest.approx(average_precision_score(right[:, seen], scores[:, seen]))
    ranked = label_ranking_average_precision_score(right[some], scores[some])
    assert numbers["example_average_precision"] == pytest.approx(ranked)
    assert (numbers["classes"], numbers["examples"]) == (3, 32)
    assert np.isnan(evaluator.artifacts["average_precision"][3])


@pytest.mark.parametrize("devices", [1, 8])
def test_several_languages(devices):
    rng = np.random.default_rng(4)
    words = lambda: "".join(rng.choice(list("abcdefgh"), 6))  # noqa: E731
    names = [{"en": words(), "es": words(), "de": words()} for _ in range(21)]
    names[3]["es"] = names[2]["es"]  # one text, two right answers
    del names[7]["de"]
    text = {k: embed_text(Letters()([n.get(k, "") for n in names], 24)) for k in ("en", "es", "de")}
    image = normalised(text["en"] + text["es"] + 0.5 * text["de"] + 2 * unit(rng, 21))
    evaluator = build("multilingual", devices, source=arrays(image=image, names=names), length=24, ks=[1, 5])
    numbers = evaluator.run(encode)
    table = np.zeros((3, 21))
    for row, language in enumerate(("de", "en", "es")):
        there = [i for i, n in enumerate(names) if language in n]
        ids = np.array([[n.get(language) for n in names].index(names[i][language]) for i in there])
        table[row, there] = naive_rank(text[language][there], image[there], ids, ids)
        assert numbers[f"{language}/text_to_image/recall@1"] == pytest.approx(np.mean(table[row, there] == 1))
    np.testing.assert_array_equal(evaluator.artifacts["text_to_image"], table)
    means = [np.mean(r[r > 0] <= 5) for r in table]
    assert numbers["mean/text_to_image/recall@5"] == pytest.approx(np.mean(means))
    full = np.delete(table, 7, axis=1)
    variance = np.mean((full - full.mean(0)) ** 2)
    assert variance > 0 and numbers["mean_rank_variance/text_to_image"] == pytest.approx(variance)
    with pytest.raises(ConfigError, match="no example has a text in 'fr'"):
        build("multilingual", source=arrays(image=image, names=names), length=24, languages=["fr"]).run(encode)


@pytest.mark.parametrize("devices", [1, 8])
def test_geometry(devices):
    rng = np.random.default_rng(5)
    a, b = unit(rng, 37), unit(rng, 37)
    b = normalised(a + b + 0.3)

    def model(batch):
        return encode(batch)

    model.scale = 20.0
    numbers = build("geometry", devices, source=arrays(image=a, text=b)).run(model)
    a, b = a.astype(np.float64), b.astype(np.float64)
    cosines = a @ b.T
    wanted = {
        "alignment": np.mean(((a - b) ** 2).sum(1)),
        "modality_gap": np.linalg.norm(a.mean(0) - b.mean(0)),
        "centroid_cosine": 1 - scipy.spatial.distance.cosine(a.mean(0), b.mean(0)),
        "positive_cosine": np.trace(cosines) / 37,
        "negative_cosine": cosines[~np.eye(37, dtype=bool)].mean(),
        "structure": np.corrcoef(*((m @ a.T)[~np.eye(37, dtype=bool)] for m in (a, b)))[0, 1],
        "temperature": 0.05,
        "examples": 37,
    }
    for name, x in (("image", a), ("text", b)):
        wanted[f"{name}/uniformity"] = np.log(np.mean(np.exp(-2 * scipy.spatial.distance.pdist(x, "sqeuclidean"))))
        singular = np.linalg.svd(x, compute_uv=False)
        wanted[f"{name}/effective_rank"] = np.exp(scipy.stats.entropy(singular))
        z = np.exp(x @ np.linalg.eigh(x.T @ x)[1]).sum(0)
        wanted[f"{name}/isotropy"] = z.min() / z.max()
    isotropy = [k for k in wanted if "isotropy" in k]
    assert all(0 < numbers[k] <= 1 for k in isotropy)
    assert numbers == pytest.approx(wanted, abs=1e-5)


def test_geometry_of_a_point():
    x = np.tile(np.eye(4, dtype=np.float32)[:1], (9, 1))
    numbers = build("geometry", source=arrays(image=x, text=x)).run(encode)
    assert numbers["image/effective_rank"] == pytest.approx(1, abs=1e-4)
    assert numbers["image/uniformity"] == pytest.approx(0, abs=1e-6) and numbers["modality_gap"] == 0
    assert numbers["structure"] == 0


def test_how_far_embeddings_have_turned(tmp_path):
    """Since a folder was written, which lacks one example."""
    rng = np.random.default_rng(6)
    (a, b), old = (unit(rng, 30) for _ in range(2)), {k: unit(rng, 30) for k in ("image", "text")}
    there = np.delete(np.arange(30), 11)
    shards = Shards(tmp_path, {"inputs": [*old], "examples": 30, "rows": 20, "format": "npy"})
    shards.begin()
    for number in range(2):
        index = np.intersect1d(there, shards.examples(number))
        shards.write(number, Rows(index, [str(i) for i in index], {k: x[index] for k, x in old.items()}))
    numbers = build("geometry", source=arrays(image=a, text=b), before=str(tmp_path)).run(encode)
    angle = lambda x, y: np.rad2deg(np.arccos(np.clip((x.astype(float) * y).sum(-1), -1, 1)))  # noqa: E731
    for name, now in (("image", a), ("text", b)):
        was, now = old[name][there], now[there]
        assert numbers[f"{name}/turned"] == pytest.approx(angle(was, now).mean(), rel=1e-4)
        pairs_of = [(i, j) for i in range(29) for j in range(i + 1, 29)]
        changes = [abs(angle(was[i], was[j]) - angle(now[i], now[j])) for i, j in pairs_of]
        assert numbers[f"{name}/angle_change"] == pytest.approx(np.mean(changes), rel=1e-4)
    with pytest.raises(ConfigError, match="has 30 examples, not 29"):
        build("geometry", source=arrays(image=a[1:], text=b[1:]), before=str(tmp_path))

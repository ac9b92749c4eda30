"""Retrieval metrics from naive ranks, built from config parts."""

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from bigcl import registry
from bigcl.evals.embedding import group
from bigcl.registry import ConfigError
from tests.evals.reference import encode, mesh, naive_rank, unit


def build(arrays, devices=8, **options):
    part = {"kind": "retrieval", "source": {"kind": "arrays", "arrays": arrays}, "batch": 8, **options}
    return registry.build("evaluator", part, mesh=mesh(devices), tokenizer=None)


def gains(scores, right, k):
    """scikit-learn's nDCG, each query by itself."""
    return np.mean([ndcg_score(r[None], s[None], k=k) for r, s in zip(right.astype(float), scores, strict=True)])


def expected(rank, ks=(1, 5, 10)):
    return {
        **{f"recall@{k}": np.mean(rank <= k) for k in ks},
        "median_rank": np.median(rank),
        "mean_reciprocal_rank": np.mean(1 / rank),
    }


@pytest.mark.parametrize("label", [None, "word"])
@pytest.mark.parametrize("rows", [29, 32])
def test_both_directions(rows, label):
    rng = np.random.default_rng(rows)
    image, noise = unit(rng, rows), unit(rng, rows)
    text = image + 1.5 * noise
    words = [None if i % 7 == 0 else f"word {i % 5}" for i in range(rows)]
    evaluator = build({"image": image, "text": text, "word": words}, label=label)
    numbers = evaluator.run(encode)

    ids = np.arange(rows)
    if label is not None:
        ids = np.array([rows + i if word is None else int(word[-1]) for i, word in enumerate(words)])
    text = encode({"text": text})["text"]
    for name, a, b in (("text_to_image", text, image), ("image_to_text", image, text)):
        rank = naive_rank(a, b, ids, ids)
        assert 0 < np.mean(rank == 1) < 1
        np.testing.assert_array_equal(evaluator.artifacts[name], rank)
        found = {k.split("/")[1]: v for k, v in numbers.items() if k.startswith(name)}
        right, scores = ids[:, None] == ids[None], a @ b.T
        wanted = {**expected(rank), "ndcg@10": gains(scores, right, 10)}
        if label is not None:
            order = np.argsort(-scores, axis=1)
            hits = np.take_along_axis(right, order, 1)
            wanted |= {f"found@{k}": np.mean(hits[:, :k].sum(1) / right.sum(1)) for k in (1, 5, 10)}
            wanted |= {f"precision@{k}": np.mean(hits[:, :k]) for k in (1, 5, 10)}
        assert found == pytest.approx(wanted)
    np.testing.assert_allclose(evaluator.artifacts["text"], text, atol=1e-6)


def test_same_numbers_on_one_device_and_with_other_batches():
    rng = np.random.default_rng(1)
    arrays = {"image": unit(rng, 27), "text": unit(rng, 27)}
    results = [
        build(arrays, devices, batch=batch).run(encode) for devices, batch in ((1, 200), (8, 200), (8, 5), (1, 1))
    ]
    assert all(r == results[0] for r in results)


def test_constant_embeddings_find_nothing():
    arrays = {"image": np.ones((30, 4), np.float32), "text": np.ones((30, 4), np.float32)}
    numbers = build(arrays).run(encode)
    assert numbers["text_to_image/recall@10"] == numbers["image_to_text/recall@1"] == 0
    assert numbers["text_to_image/median_rank"] == 30


def test_a_filling_row_is_no_competitor():
    """The last batch repeats the last example; its copies would tie with it."""
    x = np.eye(9, dtype=np.float32)
    assert build({"image": x, "text": x}).run(encode)["text_to_image/recall@1"] == 1


def test_names_and_ks():
    x = np.eye(4, dtype=np.float32)
    numbers = build({"image": x, "text": x}, query="image", item="text", ks=[2]).run(encode)
    assert numbers["image_to_text/recall@2"] == 1 and "image_to_text/recall@1" not in numbers


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("label", [None, "kind"])
def test_several_texts_of_an_example(devices, label):
    """Each asks for its own picture; a picture may find any of its texts, and one without texts is still in the way."""
    rng = np.random.default_rng(5)
    counts = [0 if i == 4 else 1 + i % 5 for i in range(19)]
    of = np.repeat(np.arange(19), counts)
    image, kinds = unit(rng, 19), [i % 7 for i in range(19)]
    text = image[of] + 1.2 * unit(rng, len(of))
    words, place = [], iter(range(len(of)))
    for count in counts:
        words.append([f"t{next(place)}" for _ in range(count)] if count != 1 else f"t{next(place)}")
    words[4] = None

    def towers(batch):
        """What stands for a text is the number in its name."""
        return encode({k: text[v[:, 0]] if k == "text" else v for k, v in batch.items()})

    def tokens(texts, length):
        return np.array([[int(t[1:])] * length for t in texts], np.int32)

    part = {
        "kind": "retrieval", "batch": 8, "texts": "words", "length": 3, "label": label,
        "source": {"kind": "arrays", "arrays": {"image": image, "words": words, "kind": kinds}},
        "transforms": [{"kind": "keep", "keys": ["image"]}],
    }  # fmt: skip
    evaluator = registry.build("evaluator", part, mesh=mesh(devices), tokenizer=tokens)
    numbers = evaluator.run(towers)
    ids = np.arange(19) if label is None else np.array(kinds)
    z = encode({"text": text})["text"]
    for name, a, b, i, j in (
        ("text_to_image", z, image, ids[of], ids),
        ("image_to_text", image, z, ids, ids[of]),
    ):
        right = i[:, None] == j[None]
        a, i, right = a[right.any(1)], i[right.any(1)], right[right.any(1)]
        rank = naive_rank(a, b, i, j)
        np.testing.assert_array_equal(evaluator.artifacts[name], rank)
        found = {k.split("/")[1]: v for k, v in numbers.items() if k.startswith(name)}
        wanted = {**expected(rank), "ndcg@10": gains(a @ b.T, right, 10)}
        hits = np.take_along_axis(right, np.argsort(-(a @ b.T), axis=1), 1)
        if right.sum(1).max() > 1:
            wanted |= {f"found@{k}": np.mean(hits[:, :k].sum(1) / right.sum(1)) for k in (1, 5, 10)}
            wanted |= {f"precision@{k}": np.mean(hits[:, :k]) for k in (1, 5, 10)}
        assert found == pytest.approx(wanted)
    assert len(evaluator.artifacts["image_to_text"]) == 18 + (label is not None)


def test_texts_that_are_not_there():
    arrays = {"image": np.eye(4, dtype=np.float32), "words": [None] * 4}
    with pytest.raises(ConfigError, match="texts: goes with"):
        build(arrays, texts="words")
    part = {"kind": "retrieval", "source": {"kind": "arrays", "arrays": arrays}, "texts": "words", "length": 3}
    evaluator = registry.build("evaluator", part, mesh=mesh(1), tokenizer=lambda texts, length: None)
    with pytest.raises(ConfigError, match="no example has a text at 'words'"):
        evaluator.run(encode)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("name", ["image", "text"])
def test_an_input_among_itself(devices, name):
    """An example does not find itself, and one whose label no other has does not ask."""
    rng = np.random.default_rng(3)
    x, words = unit(rng, 30), [f"w{i % 4}" for i in range(28)] + ["alone", None]
    evaluator = build({name: x, "word": words}, devices, query=name, item=name, label="word", ks=[1, 3, 50])
    numbers = evaluator.run(encode)
    scores, ids = x @ x.T, group(words)
    other = ~np.eye(30, dtype=bool)
    right = (ids[:, None] == ids[None]) & other
    asking = right.any(1)
    rank = np.array(
        [1 + (s[o & ~r] >= s[r].max()).sum() for s, r, o in zip(scores, right, other, strict=True) if r.any()]
    )
    hits = [r[o][np.argsort(-s[o])] for s, r, o in zip(scores, right, other, strict=True) if r.any()]
    assert asking.sum() == 28
    gain = [
        ndcg_score(r[o].astype(float)[None], s[o][None], k=50)
        for s, r, o in zip(scores, right, other, strict=True)
        if r.any()
    ]
    wanted = {**expected(rank, (1, 3, 50)), "ndcg@50": np.mean(gain)}
    wanted |= {f"found@{k}": np.mean([h[:k].sum() / h.sum() for h in hits]) for k in (1, 3, 50)}
    wanted |= {f"precision@{k}": np.mean([h[:k].sum() / k for h in hits]) for k in (1, 3, 50)}
    assert numbers == pytest.approx({**{f"{name}_to_{name}/{k}": v for k, v in wanted.items()}, "examples": 30})
    with pytest.raises(ConfigError, match="needs labels"):
        build({"image": x}, query="image", item="image")


def test_the_same_class_without_the_own_item():
    """By cosines of embeddings of any length."""
    rng = np.random.default_rng(4)
    image, text = (rng.standard_normal((30, 8)).astype(np.float32) for _ in range(2))
    words = np.arange(30) % 4
    evaluator = build({"image": image, "text": text, "word": words}, label="word", partner=False, cosine=True, ks=[5])
    numbers = evaluator.run(lambda batch: {k: batch[k] for k in ("image", "text")})
    scores = text @ image.T / np.linalg.norm(text, axis=1)[:, None] / np.linalg.norm(image, axis=1)[None]
    for name, s in (("text_to_image", scores), ("image_to_text", scores.T)):
        order = np.argsort(-np.where(np.eye(30, dtype=bool), -np.inf, s), axis=1)[:, :5]
        assert numbers[f"{name}/precision@5"] == pytest.approx(np.mean(words[order] == words[:, None]))
    with pytest.raises(ConfigError, match="a query without its own item needs labels"):
        build({"image": image, "text": text}, partner=False)


def test_group():
    np.testing.assert_array_equal(group(["a", None, "b", "a", None, 0]), [0, 1, 2, 0, 3, 4])


def test_unknown_key():
    with pytest.raises(ConfigError, match=r"labels: unknown key; did you mean 'label'"):
        build({"image": [1]}, labels="x")

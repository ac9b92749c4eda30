"""What every evaluator promises: the same numbers whatever the devices and the batch, and sense where there is only one
class."""

import numpy as np
import pytest

from bigcl import registry
from bigcl.evals.embedding import unit as normalised
from bigcl.registry import REGISTRIES, ConfigError
from tests.evals.reference import mesh, unit

ROWS = 37  # no multiple of the devices, nor of a batch
WORDS = ["cat", "dog", "emu", "fox"]
TABLE = np.random.default_rng(0).standard_normal((8, 128, 16)).astype(np.float32)
PIXELS = np.random.default_rng(1).standard_normal((48, 16)).astype(np.float32)


class Letters:
    """A tokenizer of one id per letter."""

    def __call__(self, text, length):
        return np.array([[ord(c) % 128 for c in t[:length].ljust(length)] for t in text], np.int32)


def encode(batch):
    """Tokens by a random table, pictures by random weights, vectors as they are."""
    found = {}
    for name, x in batch.items():
        if name in ("image", "text", "other"):
            rows = x if x.dtype == np.float32 else x.reshape(len(x), -1)
            if x.dtype == np.int32:
                rows = sum(TABLE[i][x[:, i]] for i in range(x.shape[1]))
            elif x.dtype == np.uint8:
                rows = rows.astype(np.float32) @ PIXELS
            found[name] = normalised(rows)
    return found


encode.scale = 20.0


def arrays(rows=ROWS, seed=0, **columns):
    rng = np.random.default_rng(seed)
    image = unit(rng, rows)
    x = {"image": image, "text": normalised(image + unit(rng, rows)), "other": unit(rng, rows)}
    return {"kind": "arrays", "arrays": {**x, "label": words(rows, seed), **columns}}


def words(rows=ROWS, seed=0):
    return [WORDS[i] for i in np.random.default_rng(seed + 100).integers(0, 4, rows)]


def boxes():
    corner = np.random.default_rng(3).uniform(0, 50, (ROWS, 2)).round(1)
    return np.concatenate([corner, corner + 20], 1)


PICTURES = np.random.default_rng(4).integers(0, 256, (ROWS, 4, 4, 3)).astype(np.uint8)
NUMBERS = np.random.default_rng(5).standard_normal(ROWS)
PROBE = {"source": arrays(), "train": arrays(70, seed=9)}
ZERO_SHOT = {"kind": "zero_shot", "source": arrays(image=PICTURES), "length": 8}

VOCABULARY = {"kind": "arrays", "arrays": {"text": unit(np.random.default_rng(6), 4), "name": WORDS}}

PARTS = {
    "answers": {
        "source": arrays(),
        "answers": VOCABULARY,
        "query": "image",
        "item": "text",
        "given": "label",
        "key": "name",
        "ks": [1, 2],
    },
    "blind_pairs": {"source": arrays(), "different": "other", "nearest": 0.2, "farthest": 0.4},
    "clustering": {"source": arrays()},
    "composed": {"source": arrays(target=np.arange(ROWS)), "items": arrays(60, seed=2, id=np.arange(60))},
    "coupling": {"source": arrays(), "sizes": [4, 8], "first": "image", "second": "text"},
    "few_shot": {**PROBE, "shots": [1, 3]},
    "geometry": {"source": arrays()},
    "knn": {**PROBE, "ks": [1, 5]},
    "linear_probe": {**PROBE, "strengths": [1e-2, 1e-1]},
    "multi_label": {"source": arrays(labels=[[w] for w in words()]), "length": 8},
    "multilingual": {"source": arrays(names=[{"en": w, "de": w[::-1]} for w in words()]), "length": 8},
    "ordering": {"source": arrays(value=NUMBERS)},
    "pairs": {"source": arrays(), "texts": ["text", "other"], "category": "label"},
    "recommendation": {
        "source": arrays(target=np.arange(ROWS)),
        "items": arrays(60, seed=2, id=np.arange(60)),
        "query": "text",
        "item": "image",
    },
    "regions": {
        "source": arrays(box=boxes(), picture=np.arange(ROWS) // 3),
        "truths": arrays(box=boxes() + 1, picture=np.arange(ROWS) // 3),
        "classes": WORDS,
        "length": 8,
    },
    "regression": {"source": arrays(value=NUMBERS)},
    "retrieval": {"source": arrays(), "label": "label"},
    "robustness": {"evaluator": ZERO_SHOT, "variants": {"noise": [{"kind": "corrupt", "corruption": "noise"}]}},
    "similarity": {
        "source": arrays(score=NUMBERS),
        "first": "image",
        "second": "text",
        "inputs": ["image", "text"],
    },
    "tuples": {"source": arrays(), "find": "image", "given": ["text", "other"]},
    "visualness": {
        "source": arrays(image=[b"x" if i % 3 else None for i in range(ROWS)]),
        "transforms": [{"kind": "keep", "keys": ["text"]}],
        "size": 4,
        "seed": 5,
    },
    "zero_shot": {**ZERO_SHOT, "source": arrays()},
}


def numbers(kind, devices, batch, **options):
    part = {"kind": kind, **PARTS[kind], **options}
    if kind == "robustness":
        part["evaluator"] = {**part["evaluator"], "batch": batch}
    else:
        part["batch"] = batch
    return registry.build("evaluator", part, mesh=mesh(devices), tokenizer=Letters()).run(encode)


def test_every_evaluator_is_here():
    assert set(PARTS) == set(REGISTRIES["evaluator"])


@pytest.mark.parametrize("kind", PARTS)
def test_the_same_numbers_whatever_the_devices_and_the_batch(kind):
    one = numbers(kind, 1, 200)
    assert one and any(0 < abs(value) < 1 for value in one.values())
    for devices, batch in ((8, 8), (8, 5)):
        assert numbers(kind, devices, batch) == pytest.approx(one, abs=1e-5, nan_ok=True)


SAME, MORE = arrays(label=["cat"] * ROWS), arrays(70, seed=9, label=["cat"] * 70)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize(
    "kind, options",
    [
        ("zero_shot", {"source": SAME}),
        ("knn", {"source": SAME, "train": MORE}),
        ("few_shot", {"source": SAME, "train": MORE}),
        ("linear_probe", {"source": SAME, "train": MORE}),
        ("clustering", {"source": SAME}),
        ("multi_label", {"source": arrays(labels=[["cat"]] * ROWS)}),
    ],
)
def test_of_one_class_all_are_right(kind, options, devices):
    found = numbers(kind, devices, 8, **options)
    shares = {k: v for k, v in found.items() if k.startswith(("accuracy", "mean_", "example_", "nmi", "ari"))}
    assert shares and shares == pytest.approx(dict.fromkeys(shares, 1.0)), found


BROKEN = np.random.default_rng(6).standard_normal((ROWS, 16)).astype(np.float32)
BROKEN[5] = np.nan


@pytest.mark.parametrize("image", [BROKEN, np.full_like(BROKEN, np.nan)], ids=["one", "all"])
@pytest.mark.parametrize("kind", sorted(set(PARTS) - {"robustness", "visualness", "coupling"}))
def test_embeddings_that_are_not_finite(kind, image):
    """Nothing stops, and it is said; numbers are finite but where there is nothing to count."""
    part = PARTS[kind]
    source = {"kind": "arrays", "arrays": {**part["source"]["arrays"], "image": image}}
    if kind == "recommendation":
        source["arrays"]["text"] = image
    with pytest.warns(UserWarning, match=f"{1 if image is BROKEN else ROWS} of {ROWS} embeddings"):
        found = numbers(kind, 8, 8, source=source)
    assert not np.isnan([v for k, v in found.items() if not k.startswith("mean_rank_variance")]).any(), found


@pytest.mark.parametrize("kind", sorted(set(PARTS) - {"robustness", "coupling", "visualness"}))
def test_a_source_without_examples(kind):
    empty = {k: v[:0] for k, v in PARTS[kind]["source"]["arrays"].items()}
    with pytest.raises(ConfigError):
        numbers(kind, 1, 8, source={"kind": "arrays", "arrays": empty})


@pytest.mark.parametrize("kind", ["knn", "linear_probe", "few_shot", "regression"])
def test_a_probe_under_disturbance_is_fitted_to_clean_examples(kind):
    noise = [{"kind": "corrupt", "corruption": "noise"}]
    part = {"source": arrays(image=PICTURES, value=NUMBERS), "train": arrays(image=PICTURES, value=NUMBERS)}
    part = {"kind": "robustness", "evaluator": {"kind": kind, **part}, "variants": {"noise": noise}}
    built = registry.build("evaluator", part, mesh=mesh(1), tokenizer=None)
    disturbed = built.evaluators["noise"]
    assert not disturbed.train.transforms
    assert len(disturbed.examples.transforms) == 1 and not built.evaluators["clean"].examples.transforms
    with pytest.raises(ConfigError, match="'robustness' has no examples of its own"):
        registry.build("evaluator", {**part, "evaluator": part}, mesh=mesh(1), tokenizer=None)


@pytest.mark.parametrize("label", [np.bytes_, np.str_, lambda word: word.encode()])
def test_labels_of_other_types(label):
    plain, other = words(), [label(word) for word in words()]
    for kind in ("zero_shot", "knn", "retrieval"):
        found = [numbers(kind, 1, 8, source=arrays(label=labels)) for labels in (plain, other)]
        assert found[0] == found[1]
    for classes in (None, WORDS):
        found = [numbers("zero_shot", 1, 8, source=arrays(label=x), classes=classes) for x in (plain, other)]
        assert found[0] == found[1]


def test_lists_as_labels_of_retrieval():
    lists = [[word, "all"] for word in words()]
    assert numbers("retrieval", 1, 8, source=arrays(label=lists)) == numbers("retrieval", 1, 8)


def test_texts_that_an_example_lacks():
    texts = [{"en": word} for word in words()]
    some = [*texts[:-1], None]
    fewer = arrays(rows=ROWS, names=some)
    assert numbers("multilingual", 1, 8, source=fewer)["examples"] == ROWS


def test_a_few_examples_for_a_model_of_many():
    train = arrays(70, seed=9, value=np.random.default_rng(1).standard_normal(70))
    few = {"kind": "arrays", "arrays": {k: v[:2] for k, v in arrays(value=NUMBERS)["arrays"].items()}}
    assert numbers("regression", 1, 8, source=few, train=train)["examples"] == 2
    with pytest.raises(ConfigError, match="2 or more"):
        numbers("regression", 1, 8, folds=1)
    constant = arrays(value=np.full(ROWS, 0.1))
    assert numbers("regression", 1, 8, source=constant)["r2"] == 0

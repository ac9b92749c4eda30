"""Open-vocabulary answers, question by question."""

import numpy as np
import pytest

from bigcl.registry import ConfigError
from tests.evals.test_pairs import arrays, build

WORDS = ["cat", "dog", "emu", "fox", "gnu"]


def encode(batch):
    """Vectors as they are, whose lengths count."""
    return dict(batch)


def test_answers_of_one_and_of_several_people():
    rng = np.random.default_rng(0)
    question, word = (rng.normal(size=(n, 3)).astype(np.float32) for n in (40, 5))
    people = [list(rng.choice([*WORDS, "yak"], 5)) for _ in range(39)] + ["dog"]
    source, vocabulary = arrays(question=question, answers=people), arrays(answer=word, name=WORDS)
    part = {"source": source, "answers": vocabulary, "query": "question", "key": "name", "ks": [1, 2]}
    numbers = build("answers", **part).run(encode)
    scores = question @ word.T
    for k in (1, 2):
        total = 0.0
        for row, given in zip(scores, people, strict=True):
            best = sorted(WORDS, key=lambda name: -row[WORDS.index(name)])[:k]
            credit = [
                float(name == given) if isinstance(given, str) else min(given.count(name) / 2, 1) for name in best
            ]
            total += max(credit)
        assert numbers[f"accuracy@{k}"] == pytest.approx(total / 40)
    assert numbers["answerable"] == pytest.approx(np.mean([set(WORDS) & {*np.ravel(p)} != set() for p in people]))
    assert numbers["examples"] == 40
    with pytest.raises(ConfigError, match="'cat' is there twice at 'name'"):
        build("answers", **{**part, "answers": arrays(answer=word, name=["cat", *WORDS[:4]])}).run(encode)

"""Answers to questions, out of an open vocabulary."""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np

from bigcl.data.tokenizers import Tokenizer
from bigcl.evals import Encode
from bigcl.evals.embedding import Examples
from bigcl.evals.metrics import consensus_accuracy, mean, plain, several
from bigcl.registry import ConfigError, Part


class Answers:
    """The answer of a vocabulary whose embedding has the largest inner product with that of the question, whether it
    occurred in training or not (Just Ask, Yang et al. 2021).

    source: questions, with the answers that people gave at `given`: a list, with one for each person, or one alone.
    answers: the vocabulary, each answer's own name at `key`.  answer_transforms: how its entries are prepared.
    query, item: the inputs of questions and of answers.

    accuracy@k: how right the best of the first k answers is. An answer out of a list is wholly right if two or more
    people gave it and half if one did (iVQA); one alone is right. Of equal scores the first answer is ahead.
    answerable: the share of questions of which some right answer is in the vocabulary; the others count as wrong.

    After `run`, `artifacts` holds `scores` [N, V], and `counts` [N, V], the people who gave an answer.
    """

    def __init__(
        self,
        *,
        source: Annotated[Part, "source"],
        answers: Annotated[Part, "source"],
        transforms: Sequence[Annotated[Part, "transform"]] = (),
        answer_transforms: Sequence[Annotated[Part, "transform"]] = (),
        query: str,
        item: str = "answer",
        given: str = "answers",
        key: str = "answer",
        ks: Sequence[int] = (1, 10),
        batch: int = 200,
        tokenizer: Tokenizer | None = None,
    ):
        self.examples = Examples(source, transforms, tokenizer, batch)
        self.answers = Examples(answers, answer_transforms, tokenizer, batch)
        self.query, self.item, self.given, self.key, self.ks = query, item, given, key, tuple(ks)
        self.artifacts: dict[str, Any] = {}

    def run(self, encode: Encode) -> dict[str, float]:
        names = [plain(name) for name in self.answers.column(self.key)]
        place = {name: i for i, name in enumerate(names)}
        if len(place) < len(names):
            twice = next(name for i, name in enumerate(names) if place[name] != i)
            raise ConfigError(f"answers.answers: {twice!r} is there twice at {self.key!r}")
        counts = np.zeros((len(self.examples), len(names)), int)
        for row, value in zip(counts, self.examples.column(self.given), strict=True):
            people = 2 if np.ndim(value) == 0 else 1
            for name in several(value):
                if name in place:
                    row[place[name]] += people
        found = self.examples.embed(encode, self.query)[self.query]
        scores = found @ self.answers.embed(encode, self.item)[self.item].T
        self.artifacts = {"scores": scores, "counts": counts}
        numbers = {f"accuracy@{k}": consensus_accuracy(scores, counts, k) for k in self.ks}
        return {**numbers, "answerable": mean(counts.any(1)), "examples": float(len(counts))}

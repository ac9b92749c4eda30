"""Retrieval of the same examples by texts in several languages."""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from bigcl.data.tokenizers import Tokenizer
from bigcl.evals import Encode
from bigcl.evals.embedding import Examples, embed_texts, group
from bigcl.evals.metrics import mean, rank_summary
from bigcl.evals.ranks import ranks
from bigcl.registry import ConfigError, Part


class Multilingual:
    """Retrieval in both directions for each language, and how much the languages disagree.

    names: key of a dict of texts by language; a language whose text is absent or None leaves the example out, for that
        language.  languages: which; None: all that occur.  Examples of the same text in a language are right for one
        another in it.
    length: of a text in tokens.  query, item: the towers' inputs for texts and examples.

    Reported are recall@k, median rank and mean reciprocal rank by language and direction, as
    `es/text_to_image/recall@1`, their mean over the languages, as `mean/text_to_image/recall@1`, and the mean rank
    variance of each direction (Nie et al. 2024, "Improving the Consistency in Cross-Lingual Cross-Modal Retrieval with
    1-to-K Contrastive Learning"): the variance over the languages of an example's rank, `1/L sum_l (r_l - mean r)^2`,
    averaged over the examples that have a text in every language (NaN if none has).

    After `run`, `artifacts` holds `languages`, and by direction the ranks [L, N], 0 where there is no text.
    """

    def __init__(
        self,
        *,
        source: Annotated[Part, "source"],
        transforms: Sequence[Annotated[Part, "transform"]] = (),
        names: str = "names",
        languages: Sequence[str] | None = None,
        length: int,
        query: str = "text",
        item: str = "image",
        ks: Sequence[int] = (1, 5, 10),
        batch: int = 200,
        tokenizer: Tokenizer | None = None,
        mesh: Mesh,
    ):
        if tokenizer is None:
            raise ConfigError("multilingual: texts need a tokenizer; set the section 'tokenizer' of the config")
        self.examples, self.tokenizer, self.batch = Examples(source, transforms, tokenizer, batch), tokenizer, batch
        self.names, self.languages, self.length, self.mesh = names, languages, length, mesh
        self.query, self.item, self.ks = query, item, tuple(ks)
        self.artifacts: dict[str, Any] = {}

    def run(self, encode: Encode) -> dict[str, float]:
        texts = [each or {} for each in self.examples.column(self.names)]
        languages = sorted({k for each in texts for k in each}) if self.languages is None else list(self.languages)
        items = self.examples.embed(encode, self.item)[self.item]
        ways = (f"{self.query}_to_{self.item}", f"{self.item}_to_{self.query}")
        table = {way: np.zeros((len(languages), len(items)), np.int64) for way in ways}
        each: dict[str, list[float]] = {}
        numbers: dict[str, float] = {}
        for row, language in enumerate(languages):
            index = np.array([i for i, t in enumerate(texts) if t.get(language) is not None], int)
            if not len(index):
                raise ConfigError(f"multilingual.languages: no example has a text in {language!r}")
            words = [texts[i][language] for i in index]
            found = embed_texts(words, self.tokenizer, encode, length=self.length, query=self.query, batch=self.batch)
            ids = group(words)
            for way, (a, b) in zip(ways, ((found, items[index]), (items[index], found)), strict=True):
                table[way][row, index] = rank = ranks(a, b, ids, ids, self.mesh)
                for metric, value in rank_summary(rank, self.ks).items():
                    numbers[f"{language}/{way}/{metric}"] = value
                    each.setdefault(f"mean/{way}/{metric}", []).append(value)
        self.artifacts = {"languages": languages, **table}
        everywhere = (table[ways[0]] > 0).all(0)
        variances = {f"mean_rank_variance/{way}": mean_rank_variance(table[way][:, everywhere]) for way in ways}
        return {
            **{name: mean(values) for name, values in each.items()},
            **variances,
            **numbers,
            "examples": float(len(items)),
        }


def mean_rank_variance(rank: Int[np.ndarray, "l n"]) -> float:
    """Variance over the languages of an example's rank, averaged over the examples."""
    return mean(rank.var(0))

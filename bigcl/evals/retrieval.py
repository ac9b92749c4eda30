"""Retrieval in both directions between two inputs of the same examples, or of one input among itself."""

import functools
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32, Int32

from bigcl.data.tokenizers import Tokenizer, texts_of
from bigcl.evals import Encode
from bigcl.evals.embedding import Examples, embed_texts, group, unit
from bigcl.evals.metrics import hit_summary, rank_summary
from bigcl.evals.ranks import first, ranks
from bigcl.registry import ConfigError, Part


class Retrieval:
    """Finds for each `query` its `item` among those of all examples of the source, and the other way round.

    query, item: two inputs, whichever. The same one twice: each example looks for others of its label, itself left out,
        and examples whose label no other has do not ask.
    texts: key of the texts of each example, one or a list, such as the five captions of a picture of COCO. Each is then
        a query of its own, right for its example and for those of equal label, instead of what the transforms leave at
        `query`. An example without one is among the items, and asks nothing.  length: of a text in tokens.
    label: key of the example; examples of equal label are right answers to one another. None: each example is right for
        itself alone (so are those whose label is None).
    partner: whether an example's own item is there. False: only others of its label are right answers, as for the same
        input twice.
    cosine: bring embeddings to unit length first, for a task that leaves them as they are.
    ks: reported are, as `text_to_image/recall@1`,
        recall@k: the share of queries with a right answer among the first k, as CLIP and SigLIP report it;
        found@k: the share of its right answers that a query has among the first k, where some have several, and
        precision@k: the share of right answers among the first k;
        ndcg@k: for the largest k, the normalised discounted gain, a right answer counting 1;
        median_rank, mean_reciprocal_rank: of the best right answer.
        Ranks start at 1, and ties count against the model.
    batch: rows of a global batch while embedding.

    After `run`, `artifacts` holds the embeddings [N, D] by input name and the ranks by direction, of those that ask.
    Row i is example i; with `texts`, row i of the query's embeddings is text i of `captions`, which is one of example
    `of[i]`.
    """

    def __init__(
        self,
        *,
        source: Annotated[Part, "source"],
        transforms: Sequence[Annotated[Part, "transform"]] = (),
        query: str = "text",
        item: str = "image",
        texts: str | None = None,
        length: int | None = None,
        label: str | None = None,
        partner: bool = True,
        cosine: bool = False,
        ks: Sequence[int] = (1, 5, 10),
        batch: int = 200,
        tokenizer: Tokenizer | None = None,
        mesh: Mesh,
    ):
        partner = partner and query != item
        if not partner and label is None:
            what = f"{query!r} among itself" if query == item else "a query without its own item"
            raise ConfigError(f"retrieval.label: {what} needs labels that say which belong together")
        if texts is not None and (not partner or length is None or tokenizer is None):
            raise ConfigError(
                "retrieval.texts: goes with another input as `item`, with `partner`, `length` and the section "
                "'tokenizer' of the config"
            )
        self.examples = Examples(source, transforms, tokenizer, batch)
        self.texts, self.length, self.tokenizer, self.batch = texts, length, tokenizer, batch
        self.query, self.item, self.label, self.ks, self.mesh = query, item, label, tuple(ks), mesh
        self.partner, self.cosine = partner, cosine
        self.artifacts: dict[str, Any] = {}

    def run(self, encode: Encode) -> dict[str, float]:
        found = self.embed(encode)
        if self.cosine:
            found = {name: unit(x) for name, x in found.items()}
        self.artifacts = dict(found)
        ids = {self.item: self.ids, self.query: self.ids}
        if self.texts is not None:
            captions, of = self.captions
            self.artifacts |= {"captions": captions, "of": of}
            ids[self.query] = self.ids[of]
        numbers: dict[str, float] = {}
        for a, b in dict.fromkeys([(self.query, self.item), (self.item, self.query)]):
            positives = np.bincount(ids[b], minlength=len(self.ids))[ids[a]] - (not self.partner)
            asking = np.flatnonzero(positives)
            options: dict[str, Any] = {} if self.partner else {"hidden": asking[:, None].astype(np.int32)}
            query, own, positives = found[a][asking], ids[a][asking], positives[asking]
            rank = ranks(query, found[b], own, ids[b], self.mesh, **options)
            if positives.max(initial=1) > 1:
                _, _, hits = first(query, found[b], own, ids[b], self.mesh, k=max(self.ks), **options)
            else:
                hits = rank[:, None] == np.arange(1, max(self.ks) + 1)
            name = f"{a}_to_{b}"
            self.artifacts[name] = rank
            report = {**rank_summary(rank, self.ks), **hit_summary(hits, positives, self.ks)}
            numbers |= {f"{name}/{metric}": value for metric, value in report.items()}
        return {**numbers, "examples": float(len(self.examples))}

    def embed(self, encode: Encode) -> dict[str, Float32[np.ndarray, "_ d"]]:
        """Embeddings of both inputs."""
        if self.texts is None:
            return self.examples.embed(encode, self.query, self.item)
        assert self.tokenizer is not None and self.length is not None
        options: dict[str, Any] = {"length": self.length, "query": self.query, "batch": self.batch}
        texts = embed_texts(self.captions[0], self.tokenizer, encode, **options)
        return {self.query: texts, **self.examples.embed(encode, self.item)}

    @functools.cached_property
    def captions(self) -> tuple[list[str], Int32[np.ndarray, "t"]]:
        """All texts, and the example of each; read once. Raises ConfigError if there are none."""
        assert self.texts is not None
        lists = [texts_of(value) for value in self.examples.column(self.texts)]
        captions = [text for each in lists for text in each]
        if not captions:
            raise ConfigError(f"retrieval.texts: no example has a text at {self.texts!r}")
        return captions, np.repeat(np.arange(len(lists), dtype=np.int32), [len(each) for each in lists])

    @functools.cached_property
    def ids(self) -> Int32[np.ndarray, "n"]:
        """A number for each example, equal for those that are right for one another; read once."""
        return group([None] * len(self.examples) if self.label is None else self.examples.column(self.label))

"""Contrast with a batch's unique answers, so that duplicates are never negatives of each other."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bigcl.losses import streaming


class Unique(NamedTuple):
    """Which of a batch's labels are the same.

    first: the row at which the label of each row occurs first.
    target: the place of each label in the sorted unique labels.
    number: how many unique labels there are.
    """

    first: Int[Array, "b"]
    target: Int[Array, "b"]
    number: Int[Array, ""]


def unique_labels(labels: Int[Array, "b"]) -> Unique:
    """Which of a batch's labels are the same."""
    _, place, target = jnp.unique(labels, return_index=True, return_inverse=True, size=len(labels))
    return Unique(place[target], target, target.max() + 1)


def unique_contrast(za: Float[Array, "b d"], zb: Float[Array, "b d"], *, labels: Int[Array, "b"]) -> Float[Array, ""]:
    r"""Contrast of each row with the unique answers of the batch (Just Ask, Yang et al. 2021).

    With U the rows at which a label occurs first, and u(i) the one that has the label of row i,

    $$L = \tfrac{1}{B} \sum_i \Big[ \log\sum_{j \in U} e^{a_i \cdot b_j} - a_i \cdot b_{u(i)} \Big].$$

    za, zb: raw embeddings, of the questions and of their answers: the inner products are the logits, without a norm or
        a temperature. Rows of `zb` after the first of their label have no part in it.
    labels: which answer a row of `zb` is.
    """
    first, _, _ = unique_labels(labels)
    candidate = first == jnp.arange(len(first))
    one = jnp.ones((), za.dtype)

    def tile(rows, columns, shared):
        y, valid = columns
        return (jnp.where(valid[None], streaming.logits(rows, y, one), streaming.MASKED),), ()

    lse = streaming.stream(tile, za, (zb, candidate)).row_lse[0]
    return (lse - streaming.paired_logits(za, zb[first], one)).mean()

"""Similarities of one model as targets of another."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from bigcl.losses.similarity import at_least_float32
from bigcl.losses.streaming import MASKED, logits, paired_logits, stream


def similarity_distillation(
    za: Float[Array, "b d"],
    zb: Float[Array, "b d"],
    scale: Float[Array, ""],
    *,
    teacher_a: Float[Array, "b e"],
    teacher_b: Float[Array, "b e"],
    teacher_scale: Float[Array, ""] | float | None = None,
    screen: bool = False,
    direction: Literal["both", "sum", "a_to_b", "b_to_a"] = "both",
    reduction: Literal["mean", "sum"] = "mean",
) -> Float[Array, ""]:
    r"""Divergence of the similarities within a batch from those of a teacher.

    With $S = s\,A B^\top$ of the model and $O = s'\,A' B'^\top$ of the teacher,

    $$L_{a \to b} = \sum_i k_i\, \mathrm{KL}\big(\mathrm{softmax}(O_i) \,\|\, \mathrm{softmax}(S_i)\big)$$

    over whole rows, or its mean over the batch, and $L_{b \to a}$ likewise of the transposed matrices. Mod-X (Ni et al.
    2023, "Continual Vision-Language Representation Learning with Off-Diagonal Information") is the sum over rows at
    scale 1, on rows that the teacher, the model before, gets right.

    za, zb: embeddings of the model; teacher_a, teacher_b: of the teacher for the same examples, of any width; no
    gradient goes there. All L2-normalised.
    scale: s, the inverse temperature.  teacher_scale: s'; None: s, without its gradient.
    screen: k is 1 where the teacher's largest similarity of the row is that of the pair, else 0. False: k = 1.
    direction: "both" is the mean of the two, "sum" their sum.  reduction: over the rows.
    """
    kept = kept_rows(teacher_a, teacher_b) if screen else None
    a_to_b, b_to_a = divergences(za, zb, scale, teacher_a, teacher_b, teacher_scale)
    if kept is not None:
        a_to_b, b_to_a = jnp.where(kept[0], a_to_b, 0), jnp.where(kept[1], b_to_a, 0)
    terms = {"a_to_b": a_to_b, "b_to_a": b_to_a, "sum": a_to_b + b_to_a, "both": (a_to_b + b_to_a) / 2}
    return terms[direction].sum() if reduction == "sum" else terms[direction].mean()


def divergences(
    za: Float[Array, "b d"],
    zb: Float[Array, "b d"],
    scale: Float[Array, ""],
    teacher_a: Float[Array, "b e"],
    teacher_b: Float[Array, "b e"],
    teacher_scale: Float[Array, ""] | float | None = None,
) -> tuple[Float[Array, "b"], Float[Array, "b"]]:
    """KL of each row and of each column. Two passes: the first for the teacher's partitions, the second for the
    expectations under its softmax."""
    s = jax.lax.stop_gradient(scale) if teacher_scale is None else jnp.asarray(teacher_scale, scale.dtype)
    ta, tb = (jax.lax.stop_gradient(at_least_float32(t)) for t in (teacher_a, teacher_b))
    partitions = stream(lambda x, y, s: ((logits(x, y, s),), ()), ta, tb, s)
    row_lse, column_lse = partitions.row_lse[0], partitions.column_lse[0]

    def tile(rows: Any, columns: Any, scales: Any) -> Any:
        (x, t, row), (y, u, column) = rows, columns
        student, teacher = logits(x, y, scales[0]), logits(t, u, scales[1])
        beyond = teacher.astype(student.dtype) - student
        p_row, p_column = jnp.exp(teacher - row[:, None]), jnp.exp(teacher - column[None])
        return (student,), (p_row.astype(student.dtype) * beyond, p_column.astype(student.dtype) * beyond)

    sums = stream(tile, (za, ta, row_lse), (zb, tb, column_lse), (scale, s))
    dtype = sums.row_lse[0].dtype
    return (
        sums.row_sum[0] + sums.row_lse[0] - row_lse.astype(dtype),
        sums.column_sum[1] + sums.column_lse[0] - column_lse.astype(dtype),
    )


def kept_rows(
    teacher_a: Float[Array, "b e"], teacher_b: Float[Array, "b e"]
) -> tuple[Bool[Array, "b"], Bool[Array, "b"]]:
    """Which rows, and which columns, of the teacher's similarities are largest at the pair; of equal ones the first
    counts. Equal are cosines within 16 units of the last place, 2e-6 in float32: products of the same vectors differ by
    less, according to where in a tile they were computed."""
    ta, tb = (jax.lax.stop_gradient(at_least_float32(t)) for t in (teacher_a, teacher_b))
    one, index = jnp.ones((), ta.dtype), jnp.arange(len(ta))
    own, tie = paired_logits(ta, tb, one), 16 * float(jnp.finfo(ta.dtype).eps)

    def tile(rows: Any, columns: Any, shared: Any) -> Any:
        (x, i, p), (y, j, q) = rows, columns
        cosine, before = logits(x, y, shared), j[None] < i[:, None]
        cosine = jnp.where(i[:, None] == j[None], MASKED, cosine)
        after = j[None] > i[:, None]
        row = cosine > jnp.where(before, p[:, None] - tie, p[:, None] + tie)
        column = cosine > jnp.where(after, q[None] - tie, q[None] + tie)
        return (), (row.astype(cosine.dtype), column.astype(cosine.dtype))

    sums = stream(tile, (ta, index, own), (tb, index, own), one)
    return sums.row_sum[0] == 0, sums.column_sum[1] == 0

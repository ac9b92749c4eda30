"""Softmax contrastive loss over the global batch."""

from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bigcl.losses import streaming
from bigcl.losses.contrast import Side, Weigh, among, contrast, rows_only
from bigcl.losses.similarity import at_least_float32
from bigcl.losses.streaming import MASKED

Direction = Literal["both", "sum", "a_to_b", "b_to_a"]
Known = dict[str, Array]
"""What is known of the rows of the batch, by name."""


def infonce(
    za: Float[Array, "b d"],
    zb: Float[Array, "b d"],
    scale: Float[Array, ""],
    *,
    direction: Direction = "both",
    label_smoothing: float = 0.0,
    within: bool = False,
    decoupled: bool = False,
    inside: bool = False,
    labels: Int[Array, "b"] | None = None,
    targets: Float[Array, "b b"] | Bool[Array, "b b"] | None = None,
    groups: Int[Array, "b"] | None = None,
    mask: Bool[Array, "b"] | None = None,
    weight: Float[Array, "b"] | None = None,
    log_weight: Float[Array, "b"] | None = None,
    negatives_a: Float[Array, "ka d"] | Float[Array, "b ka d"] | None = None,
    negatives_b: Float[Array, "kb d"] | Float[Array, "b kb d"] | None = None,
) -> Float[Array, ""]:
    r"""InfoNCE (van den Oord et al. 2018; CLIP, Radford et al. 2021, figure 3) and what is made of it by other
    candidates and other targets.

    With logits $S = s\,A B^\top$, row i of one side is to be told from its candidates $C_i$ of the other by its targets
    $P_i$:

    $$L_{a \to b} = \frac{1}{\sum_i v_i} \sum_i v_i \Big[ \log\sum_{j \in C_i} e^{q_j + S_{ij}}
    - \frac{1}{|P_i|} \sum_{j \in P_i} S_{ij} \Big],$$

    and $L_{b \to a}$ likewise of $S^\top$. By default all rows are candidates, row i is the target of row i, v = 1 and
    q = 0.

    za, zb: embeddings of the two sides, L2-normalised; row i of one belongs to row i of the other.
    scale: s, the inverse temperature.
    direction: "a_to_b" and "b_to_a" are $L_{a \to b}$ and $L_{b \to a}$, "both" their mean, "sum" their sum.
    label_smoothing: share of the target that is spread evenly over the batch (Szegedy et al. 2016), as ALIGN does.

    Candidates:
    within: the other rows of the same side too (NT-Xent of SimCLR, Chen et al. 2020).
    decoupled: targets are no candidates (DCL, Yeh et al. 2022); the term of a row that is left with none is 0.
    negatives_b: more for rows of `za`: for all of them [k, d] (a queue, MoCo, He et al. 2020; hard negatives, NegCLIP,
        Yuksekgonul et al. 2023), or for each its own [b, k, d].  negatives_a: more for rows of `zb`.
    groups: only rows of the same group.
    mask: rows that are there; the others are neither candidates nor counted.
    log_weight: q, by candidate of the batch, such as minus the log of how often it is drawn (Yi et al. 2019).

    Targets and their mean:
    labels: rows of the same label are targets of one another (SupCon, Khosla et al. 2020; UniCL, Yang et al. 2022),
        with `within` also on the same side.
    targets: instead, how much row j of `zb` is a target of row i of `za`, and i of j: their mean is weighted by it. A
        row without targets has the term 0. (With `inside` the gradient by a weight of 0 is not exact.)
    inside: targets are averaged inside the log, $\log \frac{1}{|P_i|} \sum_{j \in P_i} e^{S_{ij}}$ (SupCon's L_in).
    weight: v, of the terms in the mean; 0 leaves a row out that stays a candidate.

    >>> import jax.numpy as jnp
    >>> z = jnp.eye(4)
    >>> round(float(infonce(z, z, jnp.array(1.0))), 4)
    0.7437
    """
    if za.shape != zb.shape:
        raise ValueError(f"infonce: row i of each side must belong together, got shapes {za.shape} and {zb.shape}")
    if label_smoothing and groups is not None:
        raise ValueError("infonce: label_smoothing spreads targets over the batch, but groups leave candidates out")
    if labels is not None and targets is not None:
        raise ValueError("infonce: labels and targets both say what belongs together; give one of them")
    given = {"labels": labels, "targets": targets, "groups": groups, "mask": mask, "log_weight": log_weight}
    given |= {"negatives_a": negatives_a, "negatives_b": negatives_b}
    arrays: dict[str, Any] = {name: x for name, x in given.items() if x is not None}
    options: dict[str, Any] = {"label_smoothing": label_smoothing, "within": within, "decoupled": decoupled}
    rows = infonce_rows(za, zb, scale, direction=direction, inside=inside, **options, **arrays)
    return weighted_mean(rows, mask, weight)


def infonce_rows(
    za: Float[Array, "b d"],
    zb: Float[Array, "b d"],
    scale: Float[Array, ""],
    *,
    direction: Direction = "both",
    label_smoothing: float = 0.0,
    within: bool = False,
    decoupled: bool = False,
    inside: bool = False,
    negatives_a: Float[Array, "ka d"] | Float[Array, "b ka d"] | None = None,
    negatives_b: Float[Array, "kb d"] | Float[Array, "b kb d"] | None = None,
    **known: Array,
) -> Float[Array, "b"]:
    """The terms whose mean `infonce` is, one for each row. known: its other arrays, but for `weight`."""
    a, b = across(za, zb, scale, known, decoupled, inside)
    if within:
        a = a.merge(same_side(za, scale, known, decoupled, inside), inside)
        b = b.merge(same_side(zb, scale, known, decoupled, inside), inside)
    if negatives_b is not None:
        a = a.merge(rows_only(among(za, negatives_b, scale), inside), inside)
    if negatives_a is not None:
        b = b.merge(rows_only(among(zb, negatives_a, scale), inside), inside)
    mask = known.get("mask")
    terms = {
        "a_to_b": told_apart(a, smooth(a.mean_target(inside), za, zb, scale, mask, label_smoothing)),
        "b_to_a": told_apart(b, smooth(b.mean_target(inside), zb, za, scale, mask, label_smoothing)),
    }
    terms["sum"] = terms["a_to_b"] + terms["b_to_a"]
    terms["both"] = terms["sum"] / 2
    return terms[direction]


def told_apart(side: Side, target: Float[Array, "b"]) -> Float[Array, "b"]:
    """How far each row is from being told from its candidates: 0 where there are none, or no targets. What is not a
    number stays so."""
    return jnp.where((side.partition < MASKED / 2) | (side.mass == 0), 0, side.partition - target)


def across(
    za: Float[Array, "b d"],
    zb: Float[Array, "b d"],
    scale: Float[Array, ""],
    known: Known,
    decoupled: bool,
    inside: bool,
) -> tuple[Side, Side]:
    """Candidates and targets of the other side."""
    chosen = not known.keys().isdisjoint(("labels", "targets"))
    rows = known if chosen or not decoupled else {"labels": jnp.arange(len(za)), **known}
    rows, columns = by_side(rows, len(zb))
    a, b = contrast(
        za,
        zb,
        scale,
        candidates=log_weights(decoupled) if decoupled or rows.keys() - {"labels", "targets"} else None,
        targets=belonging if chosen else None,
        a=rows,
        b=columns,
        inside=inside,
        paired=not chosen,
    )
    return without_own(a, known), without_own(b, known)


def by_side(known: Known, columns: int) -> tuple[Known, Known]:
    """What is known of rows and of columns: rows have targets among the columns, which have their number."""
    if "targets" not in known:
        return known, known
    return known, {k: v for k, v in known.items() if k != "targets"} | {"column": jnp.arange(columns)}


def same_side(z: Float[Array, "b d"], scale: Float[Array, ""], known: Known, decoupled: bool, inside: bool) -> Side:
    """Candidates and targets among the other rows of the same side."""
    info = {**by_side(known, len(z))[1], "index": jnp.arange(len(z))}
    targets = belonging if "labels" in known else None
    rows, _ = contrast(z, z, scale, candidates=log_weights(decoupled), targets=targets, a=info, b=info, inside=inside)
    return without_own(rows, known)


def without_own(side: Side, known: Known) -> Side:
    """Both log-weights of a pair enter its logit, which serves rows and columns; a row's own is not of its
    candidates."""
    if "log_weight" not in known:
        return side
    return side._replace(partition=side.partition - known["log_weight"].astype(side.partition.dtype))


def in_reach(a: Known, b: Known) -> Bool[Array, "m n"]:
    """Which pairs may be compared."""
    m, n = (len(next(iter(side.values()))) for side in (a, b))
    keep = jnp.ones((m, n), bool)
    if "index" in a:
        keep &= a["index"][:, None] != b["index"][None]
    if "groups" in a:
        keep &= a["groups"][:, None] == b["groups"][None]
    if "mask" in a:
        keep &= a["mask"][:, None] & b["mask"][None]
    return keep


def belonging(a: Known, b: Known) -> Float[Array, "m n"]:
    """Weights of targets, 0 for what is none."""
    if "targets" in a:
        return jnp.where(in_reach(a, b), at_least_float32(a["targets"][:, b["column"]]), 0)
    return (in_reach(a, b) & (a["labels"][:, None] == b["labels"][None])).astype(jnp.float32)


def log_weights(decoupled: bool) -> Weigh:
    """Log-weights of candidates."""

    def weigh(a: Known, b: Known) -> Float[Array, "m n"]:
        keep = in_reach(a, b)
        if decoupled and not a.keys().isdisjoint(("labels", "targets")):
            keep &= belonging(a, b) == 0
        q = a["log_weight"][:, None] + b["log_weight"][None] if "log_weight" in a else jnp.zeros(keep.shape)
        return jnp.where(keep, q, MASKED)

    return weigh


def smooth(
    target: Float[Array, "b"],
    z: Float[Array, "b d"],
    others: Float[Array, "b d"],
    scale: Float[Array, ""],
    mask: Bool[Array, "b"] | None,
    share: float,
) -> Float[Array, "b"]:
    """Targets of which a share is spread evenly: the mean logit of a row is that with the mean embedding."""
    if not share:
        return target
    x, y = at_least_float32(z), at_least_float32(others)
    mean = (
        y.mean(0)
        if mask is None
        else jnp.where(mask[:, None], y, 0).sum(0) / jnp.maximum(mask.sum(), 1).astype(y.dtype)
    )
    return (1 - share) * target + share * scale.astype(x.dtype) * streaming.product("bd,d->b", x, mean)


def weighted_mean(
    terms: Float[Array, "b"], mask: Bool[Array, "b"] | None = None, weight: Float[Array, "b"] | None = None
) -> Float[Array, ""]:
    """The mean of the terms of rows that are there, by weight; 0 of nothing."""
    if mask is None and weight is None:
        return terms.mean()
    v = jnp.ones_like(terms) if weight is None else weight.astype(terms.dtype)
    if mask is not None:
        terms, v = jnp.where(mask, terms, 0), jnp.where(mask, v, 0)
    total = v.sum()
    return (v * terms).sum() / jnp.where(total > 0, total, 1)

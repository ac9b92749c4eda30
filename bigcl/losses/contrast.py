"""One masked, weighted log-softmax over explicit candidates: what the softmax losses are made of.

A loss of a row is the log of a sum over its candidates, minus what its targets score. `contrast` gives both, for the
rows and the columns of one matrix of logits; candidates that lie in several matrices (the other side, the same side, a
queue) are put together by `Side.merge`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bigcl.losses.streaming import MASKED, logits, paired_logits, product, stream

Weigh = Callable[[Any, Any], Float[Array, "m n"]]
"""A number for each pair of some rows with some columns, of what is known of them; a pure function."""


class Side(NamedTuple):
    r"""Of each row (or column) i of a matrix of logits S.

    partition: $\log \sum_j w_{ij} e^{S_{ij}}$ over its candidates.
    mass: $\sum_j t_{ij}$ of its targets.
    target: $\sum_j t_{ij} S_{ij}$; when averaged inside the log, $\log \sum_j t_{ij} e^{S_{ij}}$.
    """

    partition: Float[Array, "n"]
    mass: Float[Array, "n"]
    target: Float[Array, "n"]

    def merge(self, other: "Side", inside: bool = False) -> "Side":
        """The same rows with the candidates and targets of both."""
        target = jnp.logaddexp(self.target, other.target) if inside else self.target + other.target
        return Side(jnp.logaddexp(self.partition, other.partition), self.mass + other.mass, target)

    def mean_target(self, inside: bool = False) -> Float[Array, "n"]:
        r"""$\sum_j t_{ij} S_{ij} / \sum_j t_{ij}$, or inside the log $\log (\sum_j t_{ij} e^{S_{ij}} / \sum_j t_{ij})$;
        0 without targets."""
        some = self.mass > 0
        mass = jnp.where(some, self.mass, 1)
        return jnp.where(some, self.target - jnp.log(mass) if inside else self.target / mass, 0)

    def loss(self, inside: bool = False) -> Float[Array, "n"]:
        """The cross-entropy of each row."""
        return self.partition - self.mean_target(inside)


def contrast(
    za: Float[Array, "m d"],
    zb: Float[Array, "n d"],
    scale: Float[Array, ""],
    *,
    candidates: Weigh | None = None,
    targets: Weigh | None = None,
    a: Any = (),
    b: Any = (),
    inside: bool = False,
    paired: bool = False,
) -> tuple[Side, Side]:
    r"""Rows and columns of the logits $S = s A B^\top$, in one pass over tiles, exact over the devices of a mesh.

    candidates: log-weights $\log w_{ij}$ of the pairs in the sums, MASKED for those that take no part; None: all alike.
    targets: weights $t_{ij} \ge 0$; None: there are none here.
    a, b: pytrees of arrays [m, ...] and [n, ...] that the two read.
    inside: targets are averaged inside the log.
    paired: row i of each side is the one target of row i of the other; without `targets`.
    """

    def tile(rows: Any, columns: Any, scale: Any) -> Any:
        (x, a), (y, b) = rows, columns
        score = logits(x, y, scale)
        weighted = score if candidates is None else admit(score, candidates(a, b))
        if targets is None:
            return (weighted,), ()
        t = targets(a, b).astype(score.dtype)
        if not inside:
            return (weighted,), (t, t * score)
        return (weighted, jnp.where(t > 0, score + jnp.log(jnp.where(t > 0, t, 1)), MASKED)), (t,)

    def own(rows: Any, columns: Any, scale: Any) -> Any:
        return (paired_logits(rows[0], columns[0], scale),)

    if paired:
        sums = stream(tile, (za, a), (zb, b), scale, paired=own)
        one = jnp.ones_like(sums.paired[0])
        return Side(sums.row_lse[0], one, sums.paired[0]), Side(sums.column_lse[0], one, sums.paired[0])
    sums = stream(tile, (za, a), (zb, b), scale)

    def side(lse: Any, added: Any) -> Side:
        zero = jnp.zeros_like(lse[0])
        mass, target = (added[0], lse[1] if inside else added[1]) if targets is not None else (zero, zero)
        return Side(lse[0], mass, target if targets is not None or not inside else zero + MASKED)

    return side(sums.row_lse, sums.row_sum), side(sums.column_lse, sums.column_sum)


def admit(score: Float[Array, "m n"], log_weight: Float[Array, "m n"]) -> Float[Array, "m n"]:
    """Weighted logits; nothing of a masked one is left, nor of its gradient."""
    return jnp.where(log_weight > MASKED / 2, score + log_weight.astype(score.dtype), MASKED)


def rows_only(partition: Float[Array, "n"], inside: bool = False) -> Side:
    """Candidates without targets."""
    zero = jnp.zeros_like(partition)
    return Side(partition, zero, zero + MASKED if inside else zero)


def among(
    z: Float[Array, "b d"],
    negatives: Float[Array, "k d"] | Float[Array, "b k d"],
    scale: Float[Array, ""],
) -> Float[Array, "b"]:
    """log-sum-exp of the logits of each row with negatives that all rows share [k, d], or each with its own
    [b, k, d]."""
    if negatives.ndim == 2:
        return contrast(z, negatives, scale)[0].partition
    score = product("bd,bkd->bk", z, negatives)
    return jax.nn.logsumexp(score * scale.astype(score.dtype), axis=1)


def diagonal(own: float, others: float) -> Weigh:
    """Log-weights by index: log `own` where row and column have the same, else log `others`; 0 is no candidate."""
    log_own, log_others = (math.log(w) if w > 0 else MASKED for w in (own, others))
    return lambda i, j: jnp.where(i[:, None] == j[None], log_own, log_others)


def off_diagonal(
    za: Float[Array, "b d"], zb: Float[Array, "b d"], scale: Float[Array, ""]
) -> tuple[Float[Array, "b"], Float[Array, "b"]]:
    """log-sum-exp of the logits along rows and along columns, without the diagonal."""
    index = jnp.arange(len(za))
    rows, columns = contrast(za, zb, scale, candidates=diagonal(0.0, 1.0), a=index, b=index)
    return rows.partition, columns.partition

"""Rows that are left without candidates."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigcl import losses


@pytest.mark.parametrize(
    "known",
    [
        {"groups": [0, 0, 0, 1, 1, 2]},
        {"labels": [0, 0, 0, 0, 0, 1]},
        {"labels": [0] * 6},
        {"mask": [True] + [False] * 5},
    ],
    ids=str,
)
def test_a_decoupled_row_without_candidates_adds_nothing(known):
    """Else one lone group would drown the rest of the batch."""
    za, zb = (losses.l2_normalize(jax.random.normal(jax.random.key(i), (6, 4))) for i in range(2))
    known = {name: np.array(rows) for name, rows in known.items()}
    groups, labels = known.get("groups", np.zeros(6)), known.get("labels", np.arange(6))
    there = known.get("mask", np.ones(6, bool))

    def expected(za, zb):
        logits, total = 10.0 * za @ zb.T, 0.0
        for s in (logits, logits.T):
            for i in np.flatnonzero(there):
                rest = there & (groups == groups[i]) & (labels != labels[i])
                same = there & (labels == labels[i])
                total += jax.nn.logsumexp(s[i, rest]) - s[i, same].mean() if rest.any() else 0.0
        return jnp.ones(()) * total / (2.0 * float(there.sum()))

    def loss(za, zb):
        return losses.infonce(za, zb, jnp.array(10.0), decoupled=True, **jax.tree.map(jnp.asarray, known))

    found = jax.value_and_grad(loss, (0, 1))(za, zb)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=1e-5), found, jax.value_and_grad(expected, (0, 1))(za, zb)
    )

"""Two views of all modalities side by side."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigcl.losses.pairwise import concatenated


def naive(z, scale):
    """From the matrix of cosines of joined rows."""
    half = len(z) // 2
    a, b = (jnp.concatenate(part, 1) for part in (z[:half], z[half:]))
    a, b = (x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    logits = scale * a @ b.T
    rows, columns = (jnp.diag(jax.nn.log_softmax(logits, axis)) for axis in (1, 0))
    return -(rows.mean() + columns.mean()) / 2


def test_concatenated():
    rng = np.random.default_rng(0)
    z = [jnp.asarray(rng.standard_normal((6, width)), jnp.float32) for width in (3, 5, 4, 3, 5, 4)]
    scale = jnp.float32(7.0)
    value, gradient = jax.value_and_grad(lambda z: concatenated(*z, scale=scale))(z)
    wanted, slope = jax.value_and_grad(naive)(z, scale)
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    for mine, other in zip(gradient, slope, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-6)


def test_an_odd_number_is_an_error():
    z = jnp.ones((2, 3))
    with pytest.raises(ValueError, match="two views of each modality, got 3"):
        concatenated(z, z, z, scale=jnp.float32(1.0))

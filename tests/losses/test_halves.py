"""float32 sums as two arrays of half their bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigcl.losses import infonce, sigmoid, streaming
from bigcl.losses.halves import halves, rounded, whole


@pytest.mark.parametrize("size", [1, 7, 128, 200])
def test_no_bit_is_lost_and_rounding_is_that_of_a_cast(size):
    """Of any pattern, zeros, subnormals, infinities and what is not a number among them, in tiles of any size."""
    rng = np.random.default_rng(0)
    bits = np.concatenate([rng.integers(0, 2**32, 120), [0, 2**31, 1, 2**31 + 1, 0x7F800000, 0xFF800000, 0x7FC00000]])
    x = jax.lax.bitcast_convert_type(jnp.asarray(np.array(bits, np.uint32)), jnp.float32)
    as_bits = lambda y, dtype: np.asarray(jax.lax.bitcast_convert_type(y, dtype))  # noqa: E731
    np.testing.assert_array_equal(as_bits(whole(halves(x)), jnp.uint32), bits)
    got, expected = rounded(halves(x), size), x.astype(jnp.bfloat16)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    number = ~np.isnan(expected)
    np.testing.assert_array_equal(as_bits(got, jnp.uint16)[number], as_bits(expected, jnp.uint16)[number])


@pytest.mark.parametrize("loss", [infonce, sigmoid])
def test_gradients_are_the_same_to_the_bit(loss, monkeypatch):
    """Summed over several tiles, of a size that does not divide them."""
    monkeypatch.setattr(streaming, "TILE", 16)
    rng = np.random.default_rng(0)
    sides = [jnp.asarray(rng.normal(size=(53, 8)), jnp.bfloat16) for _ in range(2)]
    numbers = (jnp.float32(2), jnp.float32(-1))[: 1 if loss is infonce else 2]
    found = []
    for limit in (0, 2**28):
        monkeypatch.setattr(streaming, "HALVES_BYTES", limit)
        program = jax.jit(jax.value_and_grad(lambda *a: loss(*a), tuple(range(2 + len(numbers)))))
        assert ("u16[53,8]" in str(jax.make_jaxpr(program)(*sides, *numbers))) == (limit == 0)
        found.append(program(*sides, *numbers))
    for got, expected in zip(*map(jax.tree.leaves, found), strict=True):
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)

"""What contrastive losses need to know of the logits `scale * za @ zb.T + bias`, without seeing the matrix.

The losses ask for sums over rows and columns and never index the logits, so that how the matrix is walked (whole, in tiles, around a ring of devices) is decided here
alone. This is the whole-matrix form. Under `jit` with both sides sharded by rows the compiler gathers the smaller operand once and each device
holds its own rows of the logits, [B / devices, B]; one product serves both directions.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bigcl.losses.similarity import at_least_float32


def logits(za: Float[Array, "m d"], zb: Float[Array, "n d"], scale: Float[Array, ""], bias: Float[Array, ""] | None = None) -> Float[Array, "m n"]:
    """`scale * za @ zb.T + bias`, accumulated in float32 or better and free of reduced-precision passes for float32 inputs."""
    half = za.dtype.itemsize < 4
    x = jnp.einsum("md,nd->mn", za, zb, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32 if half else None)
    x = x * scale.astype(x.dtype)
    return x if bias is None else x + bias.astype(x.dtype)


def log_sum_exps(
    za: Float[Array, "m d"], zb: Float[Array, "n d"], scale: Float[Array, ""]
) -> tuple[Float[Array, "m"], Float[Array, "n"]]:
    """log-sum-exp of the logits over each row and over each column."""
    x = logits(za, zb, scale)
    return jax.nn.logsumexp(x, axis=1), jax.nn.logsumexp(x, axis=0)


def softplus_sum(za: Float[Array, "m d"], zb: Float[Array, "n d"], scale: Float[Array, ""], bias: Float[Array, ""]) -> Float[Array, ""]:
    """Sum of `log(1 + exp(logit))` over all pairs."""
    return jax.nn.softplus(logits(za, zb, scale, bias)).sum()


def paired_logits(za: Float[Array, "b d"], zb: Float[Array, "b d"], scale: Float[Array, ""]) -> Float[Array, "b"]:
    """The diagonal: logits of row i with row i."""
    return scale.astype(at_least_float32(za).dtype) * (at_least_float32(za) * at_least_float32(zb)).sum(-1)

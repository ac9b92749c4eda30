"""How embeddings spread over the sphere, and how near pairs are."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bigcl.losses.contrast import contrast, diagonal
from bigcl.losses.similarity import at_least_float32


def uniformity(*z: Float[Array, "b d"], t: float = 2.0) -> Float[Array, ""]:
    r"""$\log \operatorname{mean}_{i \ne j} e^{-t \|z_i - z_j\|^2}$ (Wang and Isola 2020), the mean over the
    inputs. Rows of unit length, 2 or more.

    One pass over the tiles of B x B pairs: a few hundred rows give it as well."""
    enough(z)
    return sum((potential(x, x, t) for x in z[1:]), potential(z[0], z[0], t)) / len(z)


def cross_uniformity(*z: Float[Array, "b d"], t: float = 2.0) -> Float[Array, ""]:
    r"""$\log \operatorname{mean}_{i \ne j} e^{-t \|a_i - b_j\|^2}$ between two inputs (Fahim et al. 2024, "It's Not a
    Modality Gap"), the mean over pairs of inputs. Rows of unit length, 2 or more."""
    enough(z, 2)
    found = [potential(x, y, t) for x, y in itertools.combinations(z, 2)]
    return sum(found[1:], found[0]) / len(found)


def alignment(*z: Float[Array, "b d"]) -> Float[Array, ""]:
    r"""$\operatorname{mean}_i \|a_i - b_i\|^2$ (Wang and Isola 2020, alpha = 2), the mean over pairs of
    inputs."""
    z = tuple(map(at_least_float32, z))
    found = [jnp.square(x - y).sum(-1).mean() for x, y in itertools.combinations(z, 2)]
    if not found:
        raise ValueError("alignment: expected two inputs or more")
    return sum(found[1:], found[0]) / len(found)


def potential(za: Float[Array, "b d"], zb: Float[Array, "b d"], t: float) -> Float[Array, ""]:
    """Log of the mean Gaussian kernel over pairs of different rows; `|a - b|^2 = 2 - 2 a.b`."""
    za, zb = at_least_float32(za), at_least_float32(zb)
    n, index = len(za), jnp.arange(len(za))
    rows, _ = contrast(za, zb, jnp.asarray(2 * t, za.dtype), candidates=diagonal(0.0, 1.0), a=index, b=index)
    return jax.nn.logsumexp(rows.partition) - jnp.log(jnp.asarray(n * (n - 1), za.dtype)) - 2 * t


def enough(z: tuple[Any, ...], inputs: int = 1) -> None:
    """Raises ValueError where there is no pair of different rows."""
    if len(z) < inputs or len(z[0]) < 2:
        raise ValueError(f"uniformity: expected {inputs} input(s) or more, of two rows or more")

"""Linear models on embeddings: ridge regression in closed form and logistic regression by L-BFGS, with the sums over
examples on the devices.

The objective is a mean over examples plus `strength / 2 * |W|^2`, so a strength means the same at any number of
examples: scikit-learn's `Ridge(alpha=n * strength)` and `LogisticRegression(C=1 / (n * strength))`. The intercept is
not penalised.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32, Int

from bigcl.evals.ranks import over_rows, pad, put
from bigcl.mesh import batch_sharding, replicated

HIGHEST = jax.lax.Precision.HIGHEST
STRENGTHS = tuple(10.0**e for e in range(-7, 2))
"""A regularisation path for embeddings of length 1."""


class Linear(NamedTuple):
    """`x @ weights + bias`, and how it came about."""

    weights: Float[np.ndarray, "d c"]
    bias: Float[np.ndarray, "c"]
    strength: float

    def __call__(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n c"]:
        return x @ self.weights + self.bias


def ridge(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n c"], mesh: Mesh, strengths: Sequence[float] = STRENGTHS
) -> Linear:
    """Least squares with the strength whose leave-one-out error is smallest.

    One eigendecomposition of the D x D moments serves the whole path and the errors in closed form (Allen 1974;
    Golub, Heath and Wahba 1979): with hat matrix H, example i left out is predicted `(y_i - f_i) / (1 - H_ii)` off.
    The moments are summed on the devices in float32; the decomposition, small, is the host's in float64. No more
    examples than dimensions are all the host's: there both parts of the quotient vanish with the strength.
    """
    n, middle, mean_y = len(x), x.mean(0, dtype=np.float64), y.mean(0, dtype=np.float64)
    alphas, few = n * np.asarray(strengths, np.float64), n <= x.shape[1]
    xc, yc = (np.asarray(v - m, np.float64 if few else np.float32) for v, m in ((x, middle), (y, mean_y)))
    weights, best = ridge_of_few(xc, yc, alphas) if few else ridge_of_many(xc, yc, alphas, mesh)
    return Linear(weights.astype(np.float32), (mean_y - middle @ weights).astype(np.float32), float(strengths[best]))


def ridge_of_many(
    x: Float32[np.ndarray, "n d"], y: Float32[np.ndarray, "n c"], alphas: Float[np.ndarray, "_"], mesh: Mesh
) -> tuple[Float[np.ndarray, "d c"], int]:
    """Weights and place of the best of the penalties, for centred rows, from their moments."""
    gram, cross = (np.asarray(v, np.float64) for v in moments(mesh)(*on_devices((x, y), mesh)))
    values, vectors = np.linalg.eigh(gram)
    values, rotated = np.maximum(values, 0), vectors.T @ cross
    path = rotated[None] / (values[:, None] + alphas[:, None, None])  # [strengths, d, c], in the eigenbasis
    shrink = 1 / (values + alphas[:, None])
    shared = [np.asarray(v, np.float32) for v in (vectors, path, shrink)]
    errors = over_rows(left_out, (x, y), (*shared, np.float32(1 / len(x))), mesh).sum(0, dtype=np.float64)
    best = int(np.argmin(errors))
    return vectors @ path[best], best


def ridge_of_few(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n c"], alphas: Float[np.ndarray, "_"]
) -> tuple[Float[np.ndarray, "d c"], int]:
    """Weights and place of the best of the penalties, for centred rows, n <= d, in float64.

    What the fit leaves of the examples is written as a sum, not as a difference with what it takes. In it the direction
    of equal rows, which the intercept takes, is taken off.
    """
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    rotated = u.T @ y
    errors = []
    for alpha in alphas:
        left = alpha / (s**2 + alpha)
        off = u @ (left[:, None] * rotated) / np.maximum(np.square(u) @ left - 1 / len(x), 1e-15)[:, None]
        errors.append(np.square(off).sum())
    best = int(np.argmin(errors))
    return vt.T @ ((s / (s**2 + alphas[best]))[:, None] * rotated), best


@functools.cache
def moments(mesh: Mesh) -> Any:
    """`x.T @ x` and `x.T @ y` of rows on all devices."""

    def sums(x: Float[Array, "n d"], y: Float[Array, "n c"]) -> tuple[Float[Array, "d d"], Float[Array, "d c"]]:
        return jnp.matmul(x.T, x, precision=HIGHEST), jnp.matmul(x.T, y, precision=HIGHEST)

    return jax.jit(sums, out_shardings=replicated(mesh))


def left_out(rows: Any, shared: Any) -> Float[Array, "n s"]:
    """Squared error of each example under each strength when it is left out of the fit."""
    (x, y), (vectors, path, shrink, share) = rows, shared
    z = jnp.matmul(x, vectors, precision=HIGHEST)

    def one(_: None, model: Any) -> tuple[None, Float[Array, "n"]]:
        weights, factor = model
        hat = share + jnp.matmul(z * z, factor, precision=HIGHEST)
        residual = (y - jnp.matmul(z, weights, precision=HIGHEST)) / jnp.maximum(1 - hat, 1e-6)[:, None]
        return None, jnp.square(residual).sum(1)

    return jax.lax.scan(one, None, (path, shrink))[1].T


def logistic(
    x: Float[np.ndarray, "n d"],
    target: Int[np.ndarray, "n"],
    classes: int,
    mesh: Mesh,
    strengths: Sequence[float],
    *,
    iterations: int = 1000,
    tolerance: float = 1e-5,
) -> list[Linear]:
    """Multinomial logistic regression at each strength, by L-BFGS; each fit starts from the one before it.

    iterations: at most so many.  tolerance: on the largest component of the gradient, at which a fit ends.
    """
    valid = np.ones(len(x), np.float32)
    data = on_devices((np.asarray(x, np.float32), target.astype(np.int32), valid), mesh)
    params = {"w": np.zeros((x.shape[1], classes), np.float32), "b": np.zeros(classes, np.float32)}
    params = jax.tree.map(lambda v: put(v, replicated(mesh)), params)
    found = {}
    for strength in sorted(strengths, reverse=True):  # from the easiest
        params = descend(mesh, iterations)(
            params, data, put(np.array(strength, np.float32), replicated(mesh)), tolerance
        )
        found[strength] = Linear(np.asarray(params["w"]), np.asarray(params["b"]), strength)
    return [found[strength] for strength in strengths]


@functools.cache
def descend(mesh: Mesh, iterations: int) -> Any:
    """The compiled minimisation."""
    solver = optax.lbfgs(memory_size=20)

    def run(params: Any, data: Any, strength: Float[Array, ""], tolerance: float) -> Any:
        x, target, valid = data

        def loss(params: Any) -> Float[Array, ""]:
            scores = jnp.matmul(x, params["w"], precision=HIGHEST) + params["b"][None]
            each = optax.softmax_cross_entropy_with_integer_labels(scores, target)
            return (valid * each).sum() / valid.sum() + strength / 2 * jnp.square(params["w"]).sum()

        evaluate = optax.value_and_grad_from_state(loss)

        def step(carry: Any) -> Any:
            params, state, _, i = carry
            value, gradient = evaluate(params, state=state)
            updates, state = solver.update(gradient, state, params, value=value, grad=gradient, value_fn=loss)
            return optax.apply_updates(params, updates), state, optax.tree.norm(gradient, ord=jnp.inf), i + 1

        start = (params, solver.init(params), jnp.asarray(jnp.inf), 0)
        going = lambda carry: (carry[3] < iterations) & (carry[2] > tolerance)  # noqa: E731
        return jax.lax.while_loop(going, step, start)[0]

    return jax.jit(run, out_shardings=replicated(mesh))


def on_devices(arrays: Any, mesh: Mesh) -> Any:
    """Arrays with rows over the devices, filled up with rows of zeros."""
    rows = -(-len(arrays[0]) // mesh.devices.size) * mesh.devices.size
    return tuple(put(pad(x, rows), batch_sharding(mesh)) for x in arrays)

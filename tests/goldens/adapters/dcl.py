"""Decoupled contrastive loss, after two re-implementations."""

from collections.abc import Mapping

import jax.numpy as jnp
from jax import Array

from bigcl.losses import dcl, infonce, l2_normalize
from tests.goldens.harness import ignores


@ignores()
def dcl_one_way(
    inputs: Mapping[str, Array], *, temperature: float, sigma: float | None, stop_gradient_weight: bool
) -> dict[str, Array]:
    """Anchors of the first view; the inputs are normalised."""
    z1, z2 = inputs["z1"], inputs["z2"]
    options = {"direction": "a_to_b", "sigma": sigma, "weight_gradient": not stop_gradient_weight}
    return {"loss": dcl(z1, z2, jnp.asarray(1 / temperature), **options)}


@ignores()
def dcl_symmetric(
    inputs: Mapping[str, Array], *, temperature: float, sigma: float | None, stop_gradient_weight: bool
) -> dict[str, Array]:
    """The mean of both directions."""
    z1, z2 = l2_normalize(inputs["z1"]), l2_normalize(inputs["z2"])
    return {"loss": dcl(z1, z2, jnp.asarray(1 / temperature), sigma=sigma, weight_gradient=not stop_gradient_weight)}


@ignores()
def ntxent_baseline(inputs: Mapping[str, Array], *, temperature: float) -> dict[str, Array]:
    """SimCLR's loss."""
    z1, z2 = l2_normalize(inputs["z1"]), l2_normalize(inputs["z2"])
    return {"loss": infonce(z1, z2, jnp.asarray(1 / temperature), within=True)}


FUNCTIONS = {"dcl_one_way": dcl_one_way, "dcl_symmetric": dcl_symmetric, "ntxent_baseline": ntxent_baseline}

"""SupReMix: `SupConLoss_v2` with its mixtures."""

from collections.abc import Mapping

import jax.numpy as jnp
from jax import Array

from bigcl.losses.supremix import contrast_counts, supremix
from tests.goldens.harness import ignores


@ignores()
def supremix_loss(
    inputs: Mapping[str, Array],
    *,
    temperature: float,
    window: float = 5,
    shared_shift: bool = True,
    mix_pos: bool = True,
    mix_neg: bool = True,
    weighted: bool = True,
) -> dict[str, Array]:
    """Both views are stacked already."""
    f, y, mixtures = inputs["f"], inputs["y"], {"mix_negatives": mix_neg, "mix_positives": mix_pos}
    loss = supremix(
        f,
        scale=jnp.asarray(1 / temperature, f.dtype),
        labels=y,
        coefficients=inputs["lam"],
        window=float(window),
        weighted=weighted,
        shared_shift=shared_shift,
        **mixtures,
    )
    positives, negatives = contrast_counts(y, window=float(window), **mixtures)
    return {"loss": loss, "num_pos": positives, "num_neg": negatives}


@ignores()
def supremix_loss_separate_shift(
    inputs: Mapping[str, Array], *, shared_shift: bool = False, **hyperparameters: float
) -> dict[str, Array]:
    """As the released code sums."""
    return supremix_loss(inputs, shared_shift=shared_shift, **hyperparameters)


FUNCTIONS = {"supremix_loss": supremix_loss, "supremix_loss_separate_shift": supremix_loss_separate_shift}

"""The optimizers, each as the direction of its step: gradients in, an ascent direction out.

Learning rate, weight decay, clipping and the choice of parameters are the same for all of them and live in `optim`.
Parameters arrive as a flat dictionary by path, in float32 or wider. `mu_dtype`: what the first moment is stored in,
such as "bfloat16".
"""

from collections.abc import Mapping
from typing import Literal

import jax.numpy as jnp
import optax
import optax.contrib
from jaxtyping import Array
from optax.contrib import MuonDimensionNumbers

Momentum = Literal["float32", "bfloat16"]

EMBEDDINGS = frozenset({"embed", "position", "cls", "registers", "probe"})
"""Names of what is looked up or learned as a token. Patch embeddings count: they are the first layer."""

MATRICES = {
    "kernel": MuonDimensionNumbers(reduction_axis=(-2,), output_axis=(-1,)),
    "qkv": MuonDimensionNumbers(reduction_axis=(-4,), output_axis=(-2, -1)),
    "out": MuonDimensionNumbers(reduction_axis=(-3, -2), output_axis=(-1,)),
}
"""Which axes of a parameter of that name go in and which come out. Along the others (stacked layers; query, key and
value) lie separate matrices."""


def default_b2(batch: int) -> float:
    """Adam's decay of the second moment by global batch: Adam's own default; from 4,096 CLIP's for ViTs (Radford et al.
    2021); above 16,384 the one with which SigLIP steadies large batches (Zhai et al. 2023). The limits are a rule of
    thumb."""
    return 0.999 if batch < 4096 else 0.98 if batch <= 16_384 else 0.95


def adamw(
    *, b1: float = 0.9, b2: float | None = None, eps: float = 1e-8, mu_dtype: Momentum | None = None, batch_size: int
) -> optax.GradientTransformation:
    """Adam (Kingma and Ba 2015; with decoupled decay AdamW, Loshchilov and Hutter 2019). `b2` None: `default_b2`."""
    return optax.scale_by_adam(b1, default_b2(batch_size) if b2 is None else b2, eps, mu_dtype=mu_dtype)


def lion(*, b1: float = 0.9, b2: float = 0.99, mu_dtype: Momentum | None = None) -> optax.GradientTransformation:
    """Sign of an interpolated momentum (Chen et al. 2023). It takes 3 to 10 times less learning rate than AdamW, and as
    many times more weight decay."""
    return optax.scale_by_lion(b1, b2, mu_dtype=mu_dtype)


def adafactor(
    *, b1: float = 0.9, b2_cap: float = 0.999, mu_dtype: Momentum | None = "bfloat16", min_factored: int = 32
) -> optax.GradientTransformation:
    """Adafactor (Shazeer and Stern 2018) as Zhai et al. 2022 changed it for vision transformers: a learning rate like
    Adam's, the first moment in half precision, the decay of the second moment capped at `b2_cap`. Second moments are
    factored over the two largest dimensions, where both are at least `min_factored`."""
    return optax.chain(
        optax.scale_by_factored_rms(
            decay_rate=0.8,
            min_dim_size_to_factor=min_factored,
            decay_rate_fn=lambda step, rate: jnp.minimum(1 - (jnp.asarray(step, jnp.float32) + 1) ** -rate, b2_cap),
        ),
        optax.ema(b1, debias=False, accumulator_dtype=mu_dtype),
    )


def sgd(
    *, momentum: float = 0.9, nesterov: bool = False, mu_dtype: Momentum | None = None
) -> optax.GradientTransformation:
    """Gradient descent with momentum (Sutskever et al. 2013)."""
    return optax.trace(momentum, nesterov, accumulator_dtype=mu_dtype)


def muon(
    *,
    momentum: float = 0.95,
    ns_steps: int = 5,
    rms: float = 0.2,
    adam_lr: float = 1.0,
    b1: float = 0.9,
    b2: float | None = None,
    eps: float = 1e-8,
    mu_dtype: Momentum | None = None,
    batch_size: int,
) -> optax.GradientTransformation:
    """Orthogonalised momentum for matrices (Jordan et al. 2024); NAdam (Dozat 2016) with `b1`, `b2`, `eps` for
    embeddings, vectors and scalars.

    rms: each matrix step has this root mean square, about that of an AdamW step, so that learning rate and weight decay
        of AdamW carry over (Liu et al. 2025).
    adam_lr: learning rate of NAdam's part, as a share of that of the matrices.
    """

    def axes(params: Mapping[str, Array]) -> dict[str, MuonDimensionNumbers | None]:
        return {path: MATRICES[path.split("/")[-1]] if is_matrix(path, x) else None for path, x in params.items()}

    descent = optax.contrib.muon(
        1.0,
        ns_steps=ns_steps,
        beta=momentum,
        eps=eps,
        mu_dtype=mu_dtype,
        adam_learning_rate=adam_lr,
        adam_b1=b1,
        adam_b2=default_b2(batch_size) if b2 is None else b2,
        muon_weight_dimension_numbers=axes,
        consistent_rms=rms,
    )
    return optax.chain(descent, optax.scale(-1.0))


def is_matrix(path: str, x: Array | optax.MaskedNode) -> bool:
    """Whether Muon's orthogonalisation applies: a kernel after the first layer."""
    *folders, name = path.split("/")
    return not isinstance(x, optax.MaskedNode) and x.ndim >= 2 and name in MATRICES and EMBEDDINGS.isdisjoint(folders)

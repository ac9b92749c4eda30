"""How far NT-Xent's gradient is held back by the positive in its own denominator."""

from collections.abc import Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bigcl.data.tokenizers import Tokenizer
from bigcl.evals import Encode, logit_scale
from bigcl.evals.embedding import Examples, unit
from bigcl.evals.metrics import mean
from bigcl.losses import infonce
from bigcl.registry import ConfigError, Part

CHECKED = 512


class Coupling:
    r"""The coupling multiplier of NT-Xent (DCL, Yeh et al. 2022, "Decoupled Contrastive Learning").

    For the anchor i of a batch, its positive in the other view and the 2 (B - 1) other rows of both views as negatives,
    the gradient of NT-Xent is $q_i$ times that of DCL, with $q_i = 1 - \mathrm{softmax}_i(\text{positive})$.

    first, second: the two views; every row of both is an anchor.
    sizes: of the batches, into which the examples are cut in a random order; what is left over is left out.
    temperature: None for the model's own.
    centre: take the mean of a batch from its embeddings and normalise them anew: those of an untrained encoder lie
        almost at one point.
    seed: of the order.

    mean@B, variation@B: mean of q over the anchors, and its standard deviation over its mean, at each size.
    mean_rise, variation_fall: the least by which the one rises and the other falls from a size to the next.
    variation_ratio: variation at the first size over that at the last.
    gradient_error: the largest difference of an anchor's gradient by `infonce` from q times that of its decoupled form,
        over the largest gradient, for the first `CHECKED` examples or one batch at the first size.
    """

    def __init__(
        self,
        *,
        source: Annotated[Part, "source"],
        transforms: Sequence[Annotated[Part, "transform"]] = (),
        first: str = "a",
        second: str = "b",
        sizes: Sequence[int] = (4, 8, 16, 32, 64, 128, 256),
        temperature: float | None = None,
        centre: bool = False,
        seed: int = 0,
        batch: int = 200,
        tokenizer: Tokenizer | None = None,
    ):
        self.examples = Examples(source, transforms, tokenizer, batch)
        if len(sizes) < 2 or min(sizes) < 2 or max(sizes) > len(self.examples):
            raise ConfigError(
                f"coupling.sizes: expected two or more, of 2 to {len(self.examples)} examples, got {list(sizes)}"
            )
        self.first, self.second, self.sizes = first, second, tuple(sizes)
        self.temperature, self.centre, self.seed = temperature, centre, seed
        self.artifacts: dict[str, Any] = {}

    def run(self, encode: Encode) -> dict[str, float]:
        found = self.examples.embed(encode, self.first, self.second)
        scale = logit_scale(encode) if self.temperature is None else 1 / self.temperature
        order = np.random.default_rng(self.seed).permutation(len(self.examples))
        views = np.stack([found[self.first], found[self.second]])[:, order].astype(np.float64)
        q = {size: multiplier(self.batches(views, size), scale) for size in self.sizes}
        self.artifacts = {f"multiplier/{size}": values for size, values in q.items()}
        means = np.array([mean(values) for values in q.values()])
        variations = np.array([np.std(values) for values in q.values()]) / means
        first = self.sizes[0]
        some = slice(max(1, CHECKED // first))
        error = gradient_error(self.batches(views, first)[some], q[first][some], scale)
        return {
            **{f"mean@{size}": float(v) for size, v in zip(self.sizes, means, strict=True)},
            **{f"variation@{size}": float(v) for size, v in zip(self.sizes, variations, strict=True)},
            "mean_rise": float(np.diff(means).min()),
            "variation_fall": float(-np.diff(variations).max()),
            "variation_ratio": float(variations[0] / variations[-1]),
            "gradient_error": error,
            "examples": float(len(order)),
        }

    def batches(self, views: Float[np.ndarray, "2 n d"], size: int) -> Float[np.ndarray, "k 2 b d"]:
        """Batches of a size, of unit rows."""
        count = views.shape[1] // size
        batches = views[:, : count * size].reshape(2, count, size, -1).swapaxes(0, 1)
        if self.centre:
            batches = batches - batches.mean((1, 2), keepdims=True)
        return unit(batches)


def multiplier(batches: Float[np.ndarray, "k 2 b d"], scale: float) -> Float[np.ndarray, "k 2 b"]:
    """q of each row of both views: the share of its softmax that the negatives have."""
    anchors, others = batches, batches[:, ::-1]
    within, across = (scale * (anchors @ x.swapaxes(2, 3)) for x in (anchors, others))
    own = np.eye(batches.shape[2], dtype=bool)
    negatives = np.where(own, 0, np.exp(within - scale) + np.exp(across - scale)).sum(-1)
    positive = np.exp(np.diagonal(across, axis1=2, axis2=3) - scale)
    return negatives / (negatives + positive)


def gradient_error(batches: Float[np.ndarray, "k 2 b d"], q: Float[np.ndarray, "k 2 b"], scale: float) -> float:
    """How far the gradients of anchors, all else fixed, are from q times those of the decoupled loss."""
    b, d = batches.shape[2:]
    others = np.array([[j for j in range(b) if j != i] for i in range(b)])
    rest = batches[:, :, others].transpose(0, 2, 1, 3, 4).reshape(-1, 1, b, 2 * (b - 1), d)
    rest = np.broadcast_to(rest, (len(batches), 2, *rest.shape[2:]))  # the same for both views
    anchors, positives, negatives = (
        jnp.asarray(x.reshape(-1, *x.shape[3:]), jnp.float32) for x in (batches, batches[:, ::-1], rest)
    )
    alone = jnp.arange(len(anchors))

    def loss(z: Float[Array, "n d"], decoupled: bool) -> Float[Array, ""]:
        own: dict[str, Any] = {"groups": alone, "negatives_b": negatives, "decoupled": decoupled, "direction": "a_to_b"}
        return len(z) * infonce(z, positives, jnp.float32(scale), **own)

    coupled, free = (np.asarray(jax.grad(loss)(anchors, kind), np.float64) for kind in (False, True))
    return float(np.abs(coupled - q.reshape(-1, 1) * free).max() / np.abs(coupled).max())

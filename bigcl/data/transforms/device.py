"""What pays on the accelerator: functions of whole batches in JAX, for the step."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Shaped, UInt8

Images = Float[Array, "b h w c"]


def normalize(
    images: UInt8[Array, "b h w c"], mean: Sequence[float], std: Sequence[float], dtype=jnp.float32
) -> Images:
    """Pixels from [0, 255] to (pixel / 255 - mean) / std, by channel."""
    scale = 1 / (255 * jnp.asarray(std, jnp.float32))
    offset = jnp.asarray(mean, jnp.float32) / jnp.asarray(std, jnp.float32)
    return (images.astype(jnp.float32) * per_channel(scale) - per_channel(offset)).astype(dtype)


def per_channel(values: Float[Array, " c"]) -> Float[Array, "1 1 1 c"]:
    """Values of channels, to go with images."""
    return values[None, None, None, :]


def random_flip(images: Shaped[Array, "b h w c"], rng: PRNGKeyArray) -> Shaped[Array, "b h w c"]:
    """Mirrors each image left and right with probability 1/2."""
    return jnp.where(jax.random.bernoulli(rng, 0.5, (len(images), 1, 1, 1)), images[:, :, ::-1], images)


def mixup(images: Images, rng: PRNGKeyArray, alpha: float = 0.2) -> tuple[Images, Float[Array, " b"]]:
    """Mixes each image with the one before it in the batch (Zhang et al. 2018, "mixup", eq. 1; for contrastive losses
    i-Mix, Lee et al. 2021).

    The batch is in random order already, and of neighbours only one row has to go from device to device. Returns
    `share * image[i] + (1 - share) * image[i - 1]` and the shares, from Beta(alpha, alpha): the weight of target i,
    where i - 1 has the rest.
    """
    share = jax.random.beta(rng, alpha, alpha, (len(images),), jnp.float32)
    weight = share[:, None, None, None].astype(images.dtype)
    return weight * images + (1 - weight) * jnp.roll(images, 1, axis=0), share


def cutmix(
    images: Shaped[Array, "b h w c"], rng: PRNGKeyArray, alpha: float = 1.0
) -> tuple[Shaped[Array, "b h w c"], Float[Array, " b"]]:
    """Puts a rectangle of the image before it in the batch into each image (Yun et al. 2019, "CutMix", eqs. 1 and 2).

    The rectangle has the picture's shape and 1 - Beta(alpha, alpha) of its area, less what sticks out. Returns the
    images and the share of pixels that stayed: the weight of target i, where i - 1 has the rest.
    """
    count, height, width, _ = images.shape
    area_rng, row_rng, column_rng = jax.random.split(rng, 3)
    side = jnp.sqrt(1 - jax.random.beta(area_rng, alpha, alpha, (count,), jnp.float32))
    inside_rows = covered(height, side, row_rng)
    inside_columns = covered(width, side, column_rng)
    inside = inside_rows[:, :, None, None] & inside_columns[:, None, :, None]
    share = 1 - inside_rows.mean(axis=1) * inside_columns.mean(axis=1)
    return jnp.where(inside, jnp.roll(images, 1, axis=0), images), share


def covered(length: int, share: Float[Array, " b"], rng: PRNGKeyArray) -> Shaped[Array, "b n"]:
    """Which of `length` pixels lie in an interval of a share of them about a pixel drawn evenly."""
    half = jnp.floor(share * length / 2).astype(jnp.int32)
    middle = jax.random.randint(rng, share.shape, 0, length)
    places = jnp.arange(length)[None, :]
    return (places >= (middle - half)[:, None]) & (places < (middle + half)[:, None])

"""Transforms that pay on the accelerator: functions of the global batch, in JAX, within the step.

A device transform is a callable `transform(batch, rng) -> batch`. What it draws comes from `rng`, a function of (seed,
step), for all rows at once: the same on any mesh, in any micro-batches, and when a run is resumed. In an evaluation
`rng` is None: what is random leaves the batch as it is, and keys that a batch lacks are passed over.

`gives` names the arrays that one adds, which a loss has to take.

Pixels need none: towers normalise uint8 pictures themselves, by their own `mean` and `std`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, Shaped

from bigcl import registry
from bigcl.registry import ConfigError, Part

Batch = dict[str, Array]


class DeviceTransform(Protocol):
    """A function of the global batch. key: of the batch, what it is about."""

    key: str
    gives: tuple[str, ...]

    def __call__(self, batch: Batch, rng: Key[Array, ""] | None, /) -> Batch: ...


class RandomFlip:
    """Mirrors left and right in half of the cases. Not for pictures that bear text or a direction."""

    gives: tuple[str, ...] = ()

    def __init__(self, key: str = "image"):
        self.key = key

    def __call__(self, batch: Batch, rng: Key[Array, ""] | None) -> Batch:
        if rng is None:
            return batch
        images = batch[self.key]
        mirrored = jax.random.bernoulli(rng, 0.5, (len(images), *[1] * (images.ndim - 1)))
        return {**batch, self.key: jnp.where(mirrored, images[..., ::-1, :], images)}


class Mixture:
    """Mixes each image with the one before it in the batch, as a subclass says.

    The batch is in random order already, and of neighbours only one row has to go from device to device. Adds
    `<key>_partner` (int32 [b]), the row of the other image, and `<key>_share` (float32 [b]), the weight of target i;
    that of the partner is the rest.
    """

    def __init__(self, alpha: float, key: str):
        self.alpha, self.key, self.gives = alpha, key, shares(key)

    def __call__(self, batch: Batch, rng: Key[Array, ""] | None) -> Batch:
        if rng is None:
            return batch
        images, share = self.mixed(batch[self.key], rng)
        return {**batch, self.key: images, **partners(self.key, share)}

    def mixed(
        self, images: Shaped[Array, "b ..."], rng: Key[Array, ""]
    ) -> tuple[Shaped[Array, "b ..."], Float[Array, "b"]]:
        """The mixtures, and the share of each row's own image."""
        raise NotImplementedError


class Mixup(Mixture):
    """Sums of two images (Zhang et al. 2018, "mixup", eq. 1; of images that are contrasted, i-Mix, Lee et al. 2021).

    With shares from Beta(alpha, alpha), image i becomes `share[i] * image[i] + (1 - share[i]) * image[i - 1]`. See
    `Mixture`.
    """

    def __init__(self, alpha: float = 0.2, key: str = "image"):
        super().__init__(alpha, key)

    def mixed(
        self, images: Shaped[Array, "b ..."], rng: Key[Array, ""]
    ) -> tuple[Shaped[Array, "b ..."], Float[Array, "b"]]:
        share = jax.random.beta(rng, self.alpha, self.alpha, (len(images),), jnp.float32)
        return blend(images, share), share


class CutMix(Mixture):
    """Puts a rectangle of the image before it in the batch into each image (Yun et al. 2019, "CutMix", eqs. 1 and 2).

    The rectangle has the picture's shape and 1 - Beta(alpha, alpha) of its area, less what sticks out. The share is
    that of the pixels that stayed. See `Mixture`.
    """

    def __init__(self, alpha: float = 1.0, key: str = "image"):
        super().__init__(alpha, key)

    def mixed(
        self, images: Shaped[Array, "b ..."], rng: Key[Array, ""]
    ) -> tuple[Shaped[Array, "b ..."], Float[Array, "b"]]:
        count, height, width, _ = images.shape
        area_rng, row_rng, column_rng = jax.random.split(rng, 3)
        side = jnp.sqrt(1 - jax.random.beta(area_rng, self.alpha, self.alpha, (count,), jnp.float32))
        inside_rows, inside_columns = covered(height, side, row_rng), covered(width, side, column_rng)
        inside = inside_rows[:, :, None, None] & inside_columns[:, None, :, None]
        share = 1 - inside_rows.mean(axis=1) * inside_columns.mean(axis=1)
        return jnp.where(inside, jnp.roll(images, 1, axis=0), images), share


def shares(key: str) -> tuple[str, str]:
    """What mixtures of `key` add to a batch."""
    return f"{key}_partner", f"{key}_share"


def partners(key: str, share: Float[Array, "b"]) -> Batch:
    """The arrays of `shares`, for rows that are mixed with the one before."""
    return dict(zip(shares(key), (jnp.roll(jnp.arange(len(share)), 1), share), strict=True))


def blend(images: Shaped[Array, "b ..."], share: Float[Array, "b"]) -> Shaped[Array, "b ..."]:
    """Each image with the one before; integers are rounded."""
    own, other = (x.astype(jnp.float32) for x in (images, jnp.roll(images, 1, axis=0)))
    weight = share.reshape(-1, *[1] * (images.ndim - 1))
    mixed = weight * own + (1 - weight) * other
    return (mixed if jnp.issubdtype(images.dtype, jnp.floating) else jnp.round(mixed)).astype(images.dtype)


def covered(length: int, share: Float[Array, "b"], rng: Key[Array, ""]) -> Bool[Array, "b n"]:
    """Which of `length` pixels lie in an interval of a share of them about a pixel drawn evenly."""
    half = jnp.floor(share * length / 2).astype(jnp.int32)
    middle = jax.random.randint(rng, share.shape, 0, length)
    places = jnp.arange(length)[None, :]
    return (places >= (middle - half)[:, None]) & (places < (middle + half)[:, None])


def transform(
    transforms: Sequence[DeviceTransform], batch: Mapping[str, Array], rng: Key[Array, ""] | None = None
) -> Batch:
    """The batch after all of them. rng: of the step, which is not drawn from here where it is for examples and losses
    (see `bigcl.state.make_step`); None for an evaluation."""
    result, rows = dict(batch), len(next(iter(batch.values())))
    for place, function in enumerate(transforms):
        result = function(result, None if rng is None else jax.random.fold_in(rng, rows + 1 + place))
    return result


def build(parts: Sequence[Part]) -> list[DeviceTransform]:
    """The transforms of a list of parts. Raises ConfigError for two that give the same array."""
    made: list[DeviceTransform] = [registry.build("device_transform", part) for part in parts]
    for place, function in enumerate(made):
        if twice := {name for other in made[:place] for name in other.gives} & set(function.gives):
            raise ConfigError(
                f"data.device[{place}]: an earlier one gives {min(twice)!r} already; a picture is mixed once"
            )
    return made


def check(transforms: Sequence[DeviceTransform], example: Mapping[str, Any], taken: Mapping[str, Any]) -> None:
    """Raises ConfigError for a key that batches do not have, and for what is given and no loss takes.

    example: what batches hold.  taken: what the task reads.
    """
    for place, function in enumerate(transforms):
        if function.key not in example:
            raise ConfigError(
                f"data.device[{place}].key: no {function.key!r} in a batch; {registry.nearest(function.key, example)}"
            )
        if unread := [name for name in function.gives if name not in taken]:
            raise ConfigError(
                f"data.device[{place}]: no loss takes {' and '.join(map(repr, unread))}, the targets of the mixtures; "
                'mixture_contrast and classification do, as "with": '
                f'{{"permutation": "{function.gives[0]}", "coefficients": "{function.gives[1]}"}}'
            )

"""The ResNets of CLIP (Radford et al. 2021, 2.4; He et al. 2016): a stem of three convolutions, average pooling before
strided ones (antialiased, Zhang 2019), and attention pooling."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key, Shaped

from bigcl.registry import nearest
from bigcl.towers import layers
from bigcl.towers.encoding import Encoding

VARIANTS: dict[str, tuple[tuple[int, int, int, int], int]] = {
    "RN50": ((3, 4, 6, 3), 64),
    "RN101": ((3, 4, 23, 3), 64),
    "RN50x4": ((4, 6, 10, 6), 80),
    "RN50x16": ((6, 8, 18, 8), 96),
    "RN50x64": ((3, 15, 36, 10), 128),
}
"""Blocks of the four stages, and the width of the stem; the last stage has 32 times as many channels."""
_EXPANSION, _STRIDE, _HEAD = 4, 32, 64


class ResNet(nnx.Module):
    """Images `[B, H, W, C]` (uint8, or float already normalised) to an embedding `[B, D]`, and the last feature map as
    tokens, row by row.

    It is a tower for published weights: batch norms are constants at inference, and `bigcl.convert` folds them into the
    convolutions, which here have biases instead. Without them it is hard to train from scratch.

    variant: "RN50" and the like; `depths`, `width` override it or replace it.  heads: None for width / 2.
    embed_dim: None for 32 times the width.
    mean, std: what uint8 pixels are normalised with, after scaling to [0, 1], on the device.
    """

    def __init__(
        self,
        *,
        variant: str | None = None,
        image_size: int = 224,
        depths: Sequence[int] | None = None,
        width: int | None = None,
        heads: int | None = None,
        channels: int = 3,
        embed_dim: int | None = None,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        if variant is not None and variant not in VARIANTS:
            raise ValueError(f"resnet: unknown variant {variant!r}; {nearest(variant, VARIANTS)}")
        known = (None, None) if variant is None else VARIANTS[variant]
        depths, width = depths or known[0], width or known[1]
        if depths is None or width is None:
            raise ValueError(f"resnet: give a variant ({', '.join(VARIANTS)}) or depths and width")
        if image_size % _STRIDE:
            raise ValueError(f"resnet: image_size {image_size} is not a multiple of {_STRIDE}")
        self.image_size, self.channels, self.dtype = image_size, channels, dtype
        self.mean, self.std = tuple(mean), tuple(std)
        half, self.width = width // 2, _STRIDE * width
        self.stem = nnx.List(
            [
                Conv(channels, half, 3, stride=2, dtype=dtype, rngs=rngs),
                Conv(half, half, 3, dtype=dtype, rngs=rngs),
                Conv(half, width, 3, dtype=dtype, rngs=rngs),
            ]
        )
        stages, inner = [], width
        for stage, depth in enumerate(depths):
            blocks = []
            for block in range(depth):
                stride = 2 if stage and not block else 1
                blocks.append(Bottleneck(inner, width * 2**stage, stride, dtype=dtype, rngs=rngs))
                inner = _EXPANSION * width * 2**stage
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)
        places = (image_size // _STRIDE) ** 2 + 1
        self.position = nnx.Param(nnx.initializers.normal(self.width**-0.5)(rngs.params(), (places, self.width)))
        self.attention = nnx.Dict(
            {
                name: nnx.Param(value)
                for name, value in projections(self.width, heads or self.width // _HEAD, rngs).items()
            }
        )
        self.projection = nnx.Linear(self.width, embed_dim or self.width, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        image: Shaped[Array, "b h w c"],
        mask: Bool[Array, "b n"] | None = None,
        rng: Key[Array, "b"] | None = None,
    ) -> Encoding:
        """`mask`: which places of the last feature map the pooling looks at (all by default)."""
        del rng
        if image.shape[1:] != self.reads().shape:
            raise ValueError(f"resnet: images of {image.shape[1:]} reached a tower for {self.reads().shape}")
        x = layers.normalise(image, self.mean, self.std, self.dtype)
        for conv in self.stem:
            x = jax.nn.relu(conv(x))
        x = halve(x)
        for stage in self.stages:
            for block in stage:
                x = block(x)
        tokens = x.reshape(x.shape[0], -1, self.width)
        pooled = self.pool(tokens, mask)
        return Encoding(self.projection(pooled), tokens, mask, pooled)

    def pool(self, x: Float[Array, "b n w"], mask: Bool[Array, "b n"] | None) -> Float[Array, "b w"]:
        """Attention of the mean of all places over itself and them."""
        first = layers.masked_mean(x, mask)[:, None]
        x = jnp.concatenate([first, x], axis=1) + self.position[...].astype(x.dtype)[None]
        kernel, bias = (self.attention[name][...].astype(x.dtype) for name in ("qkv", "qkv_bias"))
        q = jnp.einsum("bnw,whd->bnhd", x[:, :1], kernel[:, 0]) + bias[0][None, None]
        kv = jnp.einsum("bnw,wchd->bnchd", x, kernel[:, 1:]) + bias[1:][None, None]
        seen = None if mask is None else jnp.pad(mask, ((0, 0), (1, 0)), constant_values=True)[:, None, None]
        return layers.attend(q, kv[:, :, 0], kv[:, :, 1], seen).reshape(x.shape[0], -1)

    @property
    def position_front(self) -> int:
        """How many of the learned positions stand before those of the square of places: that of their mean."""
        return 1

    def reads(self) -> jax.ShapeDtypeStruct:
        """One image."""
        return jax.ShapeDtypeStruct((self.image_size, self.image_size, self.channels), jnp.uint8)


class Bottleneck(nnx.Module):
    """Three convolutions beside a shortcut: `[B, H, W, inner] -> [B, H / stride, W / stride, 4 * width]`."""

    def __init__(self, inner: int, width: int, stride: int, *, dtype, rngs: nnx.Rngs):
        outer = _EXPANSION * width
        self.stride = stride
        self.conv1 = Conv(inner, width, 1, dtype=dtype, rngs=rngs)
        self.conv2 = Conv(width, width, 3, dtype=dtype, rngs=rngs)
        self.conv3 = Conv(width, outer, 1, dtype=dtype, rngs=rngs)
        self.shortcut = Conv(inner, outer, 1, dtype=dtype, rngs=rngs) if stride > 1 or inner != outer else None

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j d"]:
        y = jax.nn.relu(self.conv2(jax.nn.relu(self.conv1(x))))
        if self.stride > 1:
            x, y = halve(x), halve(y)
        return jax.nn.relu(self.conv3(y) + (x if self.shortcut is None else self.shortcut(x)))


class Conv(nnx.Module):
    """A convolution that keeps the size, or halves it with stride 2: `[B, H, W, inner] -> [B, H', W', outer]`."""

    def __init__(self, inner: int, outer: int, side: int, *, stride: int = 1, dtype, rngs: nnx.Rngs):
        self.stride, self.dtype = stride, dtype
        self.kernel = nnx.Param(nnx.initializers.he_normal()(rngs.params(), (side, side, inner, outer), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((outer,)))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j d"]:
        kernel = self.kernel[...].astype(self.dtype)
        margin = [(kernel.shape[0] // 2,) * 2] * 2
        y = jax.lax.conv_general_dilated(
            x, kernel, (self.stride,) * 2, margin, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return y + self.bias[...].astype(self.dtype)[None, None, None]


def halve(x: Float[Array, "b h w c"]) -> Float[Array, "b i j c"]:
    """The mean of each square of four."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def projections(width: int, heads: int, rngs: nnx.Rngs) -> dict[str, Array]:
    """Kernel and bias of queries, keys and values, in the layout of `layers.Attention`."""
    if width % heads:
        raise ValueError(f"resnet: width {width} is not a multiple of heads {heads}")
    shape = (3, heads, width // heads)
    normal = jax.random.normal(rngs.params(), (width, *shape))
    return {"qkv": normal / math.sqrt(width), "qkv_bias": jnp.zeros(shape)}

"""Vision transformer (Dosovitskiy et al. 2021) in the forms that CLIP, SigLIP and DINOv2 use."""

import functools
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from bigcl.towers import layers
from bigcl.towers.encoding import Encoding

VARIANTS: dict[str, tuple[int, int, int, int]] = {
    "Ti": (192, 12, 3, 768),
    "S": (384, 12, 6, 1536),
    "B": (768, 12, 12, 3072),
    "L": (1024, 24, 16, 4096),
    "H": (1280, 32, 16, 5120),
    "So400m": (1152, 27, 16, 4304),
    "g": (1408, 40, 16, 6144),
    "gopt": (1536, 40, 16, 6144),
}
"""width, depth, heads, MLP width. So400m: Alabdulmohsin et al. 2023; g: OpenCLIP's; gopt: SigLIP 2's; the others:
Dosovitskiy et al. 2021."""


class ViT(nnx.Module):
    """Images `[B, H, W, C]` (uint8, or float already normalised) to an embedding `[B, D]` and tokens.

    variant: "B/16" and the like: size and patch; `width`, `depth`, `heads`, `mlp_width` override it, or replace it
        together with `patch`.
    pool: "cls" (class token), "mean", "map" (attention pooling), or "coca" (CoCa's attentional pooler, to `embed_dim`;
        it looks at the registers too, and one of them is OpenCLIP's class token).
    positions: "learned", "sincos" or "rotary" (axial).
    registers: extra tokens that take part in attention and are thrown away (Darcet et al. 2024).
    pre_norm: the layer norm before the first block that CLIP has.
    patch_dropout: share of patches left out of each training image (FLIP, Li et al. 2023).
    embed_dim: width of a final linear projection (without bias, as in CLIP), None for none (as in SigLIP).
    naflex: pictures of any shape (SigLIP 2 NaFlex, Tschannen et al. 2025, 2.4): not images but patches `[B, N, patch *
        patch * C]`, as the transform `naflex` gives them. Positions are learned for the square `image_size` and
        interpolated to the rows and columns of each picture.
    trim: leave out the last rows and columns of images whose size is no multiple of the patch (SigLIP's So400m/14 at
        384 pixels), instead of raising ValueError.
    matmul: "int8" or "fp8": products with the weights of the blocks in eight bits, an experiment (`towers/matmul.py`).
    attention: "cudnn": that of the blocks by cuDNN on GPUs, in half precision, an experiment (`layers.attend_cudnn`).
    mean, std: what uint8 pixels are normalised with, after scaling to [0, 1], on the device.
    """

    def __init__(
        self,
        *,
        variant: str | None = None,
        image_size: int = 224,
        patch: int | None = None,
        width: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        mlp_width: int | None = None,
        channels: int = 3,
        pool: Literal["cls", "mean", "map", "coca"] = "cls",
        positions: Literal["learned", "sincos", "rotary"] = "learned",
        registers: int = 0,
        qk_norm: bool = False,
        gated: bool = False,
        activation: layers.Activation = "gelu_tanh",
        pre_norm: bool = False,
        patch_bias: bool = True,
        norm_eps: float = 1e-6,
        dropout: float = 0.0,
        patch_dropout: float = 0.0,
        embed_dim: int | None = None,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        trim: bool = False,
        naflex: bool = False,
        remat: str = layers.REMAT,
        scan: bool = True,
        matmul: layers.Matmul = "plain",
        attention: layers.Attending = "plain",
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        name, patch = split_variant(variant, patch)
        width, depth, heads, mlp_width = layers.resolve_sizes("vit", VARIANTS, name, width, depth, heads, mlp_width)
        if image_size % patch and not trim:
            raise ValueError(f"vit: image_size {image_size} is not a multiple of patch {patch}")
        if naflex and positions != "learned":
            raise ValueError(f"vit: positions {positions!r} with naflex; only learned ones are interpolated")
        if pool == "coca" and not embed_dim:
            raise ValueError("vit: pool 'coca' without embed_dim, the width of its query; set it")
        self.naflex = naflex
        self.image_size, self.patch, self.channels, self.width, self.head = (
            image_size,
            patch,
            channels,
            width,
            width // heads,
        )
        self.pool, self.positions, self.patch_dropout, self.dtype = pool, positions, patch_dropout, dtype
        self.mean, self.std = tuple(mean), tuple(std)
        normal = nnx.initializers.normal(width**-0.5)
        self.embed = nnx.Linear(patch * patch * channels, width, use_bias=patch_bias, dtype=dtype, rngs=rngs)
        self.cls = nnx.Param(normal(rngs.params(), (1, width))) if pool == "cls" else None
        self.registers = nnx.Param(normal(rngs.params(), (registers, width))) if registers else None
        places = (image_size // patch) ** 2 + (pool == "cls")
        self.position = nnx.Param(normal(rngs.params(), (places, width))) if positions == "learned" else None
        self.pre_norm = layers.Norm(width, eps=norm_eps) if pre_norm else None
        self.stack = layers.Stack(
            depth, width, heads, mlp_width, activation=activation, gated=gated, qk_norm=qk_norm,
            norm_eps=norm_eps, dropout=dropout, dtype=dtype, remat=remat, scan=scan,
            matmul=matmul, attention=attention, rngs=rngs,
        )  # fmt: skip
        self.norm = layers.Norm(width, eps=norm_eps)
        head = functools.partial(layers.AttentionPool, activation=activation, norm_eps=norm_eps, dtype=dtype, rngs=rngs)
        pooler = functools.partial(layers.AttentionalPooler, norm_eps=norm_eps, dtype=dtype, rngs=rngs)
        coca = pooler(width, embed_dim) if pool == "coca" and embed_dim else None
        self.map = head(width, heads, mlp_width) if pool == "map" else coca
        linear = functools.partial(nnx.Linear, use_bias=False, dtype=dtype, rngs=rngs)
        self.projection = linear(embed_dim if coca else width, embed_dim) if embed_dim else None

    def __call__(
        self,
        image: Shaped[Array, "b h w c"] | Shaped[Array, "b n p"],
        mask: Bool[Array, "b n"] | None = None,
        rng: Key[Array, "b"] | None = None,
        *,
        shape: Int[Array, "b 2"] | None = None,
    ) -> Encoding:
        """`mask`: which patches are real (all by default).  `shape`: rows and columns of each picture, if `naflex`."""
        keep_rng, stack_rng = (None, None) if rng is None else layers.split_keys(rng, 2)
        x = self.embed(self.patches(image) if self.naflex else self.patchify(self.normalise(image)))
        x, prefix, rotation = self.place(x, shape)
        if keep_rng is not None and self.patch_dropout:
            x, mask, rotation = drop_patches(keep_rng, 1 - self.patch_dropout, x, mask, rotation)
        x, mask, rotation = prepend(prefix, x, mask, rotation)
        if self.pre_norm is not None:
            x = self.pre_norm(x)
        attend = None if mask is None else mask[:, None, None]
        x = self.norm(self.stack(x, mask=attend, rotation=rotation, rng=stack_rng))
        whole = x, mask
        tokens, mask = x[:, len(prefix) :], None if mask is None else mask[:, len(prefix) :]
        if self.pool == "cls":
            pooled = x[:, 0]
        elif self.map is None:
            pooled = layers.masked_mean(tokens, mask)
        else:
            pooled = self.map(*whole) if self.pool == "coca" else self.map(tokens, mask)
        if self.projection is None:
            return Encoding(pooled, tokens, mask)
        return Encoding(self.projection(pooled), tokens, mask, pooled)

    def embed_patches(self, tokens: Float[Array, "b n w"]) -> Float[Array, "b n d"]:
        """Each patch, from the tokens of an `Encoding`, as if it were all that is pooled: where it lies in the space of
        the embeddings (Zhou et al. 2022, "Extract Free Dense Labels from CLIP"). With pool "mean" the embedding is the
        mean of these."""
        b, n, _ = tokens.shape
        x = tokens if self.map is None else self.map(tokens.reshape(b * n, 1, -1)).reshape(b, n, -1)
        return x if self.projection is None else self.projection(x)

    @property
    def position_front(self) -> int | None:
        """How many of the learned positions stand before those of the square of patches; None if they are not
        learned."""
        return None if self.position is None else int(self.cls is not None)

    def reads(self) -> jax.ShapeDtypeStruct | dict[str, jax.ShapeDtypeStruct]:
        """One image; if `naflex` its patches, which of them are real, and their rows and columns."""
        if self.naflex:
            tokens = (self.image_size // self.patch) ** 2
            return {
                "": jax.ShapeDtypeStruct((tokens, self.patch**2 * self.channels), jnp.uint8),
                "_mask": jax.ShapeDtypeStruct((tokens,), jnp.bool_),
                "_shape": jax.ShapeDtypeStruct((2,), jnp.int32),
            }
        return jax.ShapeDtypeStruct((self.image_size, self.image_size, self.channels), jnp.uint8)

    def normalise(self, image: Shaped[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """uint8 pixels to normalised floats; floats pass."""
        if image.shape[1:] != (self.image_size, self.image_size, self.channels):
            raise ValueError(
                f"vit: images of {image.shape[1:]} reached a tower of "
                f"image_size {self.image_size}, channels {self.channels}"
            )
        return layers.normalise(image, self.mean, self.std, self.dtype)

    def patches(self, image: Shaped[Array, "b *n"]) -> Float[Array, "b n p"]:
        """Patches as they come to normalised floats."""
        if image.ndim != 3 or image.shape[2] != self.patch**2 * self.channels:
            raise ValueError(
                f"vit: patches of {image.shape[2:]} reached a naflex tower of patch {self.patch}, channels "
                f"{self.channels}; the transform 'naflex' makes them"
            )
        pixels = image.reshape(*image.shape[:2], self.patch**2, self.channels)
        return layers.normalise(pixels, self.mean, self.std, self.dtype).reshape(image.shape)

    def patchify(self, image: Float[Array, "b h w c"]) -> Float[Array, "b n p"]:
        """Non-overlapping patches as vectors, row by row: a strided convolution written as a matrix product."""
        b, _, _, c = image.shape
        side = self.image_size // self.patch
        x = image[:, : side * self.patch, : side * self.patch].reshape(b, side, self.patch, side, self.patch, c)
        return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, self.patch * self.patch * c)

    def place(self, x: Float[Array, "b n w"], shape: Int[Array, "b 2"] | None) -> tuple[Array, Array, Array | None]:
        """Adds positions to the patches. Returns them, the tokens to put in front `[k, W]`, and the rotations `[1, N,
        2, r]` if rotary."""
        prefix = [p[...] for p in (self.cls, self.registers) if p is not None]
        front = jnp.concatenate(prefix) if prefix else jnp.zeros((0, self.width))
        if self.position is not None:
            position = self.position[...]
            if self.cls is not None:
                front, position = front.at[0].add(position[0]), position[1:]
            position = position[None]
            if self.naflex:
                if shape is None:
                    raise ValueError("vit: a naflex tower needs the shape of each picture; the transform gives it")
                grid = (self.image_size // self.patch,) * 2
                position = layers.resize_positions(position.reshape(*grid, -1), shape, x.shape[1])
            return x + position.astype(x.dtype), front.astype(x.dtype), None
        side = np.arange(self.image_size // self.patch)
        places = np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
        if self.positions == "sincos":
            return x + jnp.asarray(layers.sincos_table(places, self.width), x.dtype)[None], front.astype(x.dtype), None
        return x, front.astype(x.dtype), jnp.asarray(layers.rotation_table(places, self.head, theta=100.0))[None]


def split_variant(variant: str | None, patch: int | None) -> tuple[str | None, int]:
    """`"B/16"` to `("B", 16)`; an explicit `patch` wins."""
    name, _, size = (variant or "").partition("/")
    if patch is None and not size.isdigit():
        raise ValueError(f"vit: no patch size in variant {variant!r}; write it as 'B/16', or set patch")
    return name or None, patch if patch is not None else int(size)


def drop_patches(
    rng: Key[Array, "b"],
    keep: float,
    x: Float[Array, "b n w"],
    mask: Bool[Array, "b n"] | None,
    rotation: Float[Array, "1 n 2 r"] | None,
) -> tuple[Array, Array | None, Array | None]:
    """Keeps a random subset of the patches, another for each image, the same number for all (FLIP, Li et al. 2023)."""
    n = x.shape[1]
    order = jnp.argsort(jax.vmap(lambda key: jax.random.uniform(key, (n,)))(rng), axis=1)[:, : max(1, round(n * keep))]
    x = jnp.take_along_axis(x, order[:, :, None], axis=1)
    mask = None if mask is None else jnp.take_along_axis(mask, order, axis=1)
    return x, mask, None if rotation is None else rotation[0][order]


def prepend(
    front: Float[Array, "k w"],
    x: Float[Array, "b n w"],
    mask: Bool[Array, "b n"] | None,
    rotation: Float[Array, "#b n 2 r"] | None,
) -> tuple[Array, Array | None, Array | None]:
    """Puts class token and registers before the patches: never masked, never rotated."""
    k = len(front)
    x = jnp.concatenate([jnp.broadcast_to(front[None], (x.shape[0], *front.shape)), x], axis=1)
    mask = None if mask is None else jnp.pad(mask, ((0, 0), (k, 0)), constant_values=True)
    if rotation is not None:
        still = jnp.zeros((rotation.shape[0], k, *rotation.shape[2:])).at[:, :, 0].set(1.0)
        rotation = jnp.concatenate([still, rotation], axis=1)
    return x, mask, rotation

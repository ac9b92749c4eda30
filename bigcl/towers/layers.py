"""The transformer that the towers share: attention, block, scanned stack, poolers, positions.

Layouts are those of OpenAI CLIP and SigLIP up to reshapes, so that weights can be exchanged. Parameters are float32;
`dtype` is what the matrix products run in. Norm statistics and the softmax are always float32.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from bigcl.mesh import constrain_batch
from bigcl.registry import nearest
from bigcl.towers.matmul import PRODUCT, Matmul, dense, dot_general


def gelu(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    r"""$x\,\Phi(x)$ (Hendrycks and Gimpel 2016).

    In float32 by erf, as PyTorch does: half the work of JAX's erfc, and as exact relative to x. In half precision
    `1 + erf` would lose what is left of it for negative x.
    """
    if x.dtype != jnp.float32:
        return jax.nn.gelu(x, approximate=False)
    return x * (0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5)))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_tanh": jax.nn.gelu,
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),  # OpenAI CLIP
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}

REMAT = "dots_with_no_batch_dims_saveable"
"""What the towers keep for the gradient where nothing else is said, see `Stack`."""

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"]

Attending = Literal["plain", "cudnn"]


def glorot(fan_in: int, fan_out: int) -> Callable[..., Array]:
    """Glorot-uniform initializer for kernels whose shape does not show their fans (fused or split into heads)."""
    limit = math.sqrt(6 / (fan_in + fan_out))
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -limit, limit)


class Norm(nnx.Module):
    """Layer norm (Ba et al. 2016) or, without centring, RMS norm (Zhang and Sennrich 2019) over the last axis, in
    float32 or better whatever the input."""

    def __init__(self, width: int, *, eps: float = 1e-6, centred: bool = True):
        self.eps, self.centred = eps, centred
        self.scale = nnx.Param(jnp.ones((width,)))
        self.bias = nnx.Param(jnp.zeros((width,))) if centred else None

    def __call__(self, x: Float[Array, "*b w"]) -> Float[Array, "*b w"]:
        y = x.astype(jnp.float32) if x.dtype.itemsize < 4 else x
        if self.centred:
            y = y - y.mean(-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.eps)
        lead = (None,) * (x.ndim - 1)
        y = y * self.scale[lead]
        return (y if self.bias is None else y + self.bias[lead]).astype(x.dtype)


class Attention(nnx.Module):
    """Multi-head attention (Vaswani et al. 2017), self or cross: `[B, N, W], [B, M, W] -> [B, N, W]`.

    The kernel of queries, keys and values is one array `[W, 3, heads, W / heads]`: one matrix product for all three,
    and an axis of heads to shard.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        qk_norm: bool = False,
        matmul: Matmul = "plain",
        attention: Attending = "plain",
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        if width % heads:
            raise ValueError(f"attention: width {width} is not a multiple of heads {heads}")
        head = width // heads
        self.dtype, self.dot_general, self.attend = dtype, dot_general(matmul), ATTEND[attention]
        self.qkv = nnx.Param(glorot(width, width)(rngs.params(), (width, 3, heads, head)))
        self.qkv_bias = nnx.Param(jnp.zeros((3, heads, head)))
        self.out = nnx.Param(glorot(width, width)(rngs.params(), (heads, head, width)))
        self.out_bias = nnx.Param(jnp.zeros((width,)))
        self.q_norm = Norm(head, centred=False) if qk_norm else None
        self.k_norm = Norm(head, centred=False) if qk_norm else None

    def __call__(
        self,
        x: Float[Array, "b n w"],
        context: Float[Array, "b m w"] | None = None,
        *,
        mask: Bool[Array, "#b 1 #n m"] | None = None,
        rotation: Float[Array, "#b n 2 r"] | None = None,
    ) -> Float[Array, "b n w"]:
        kernel, bias = self.qkv[...].astype(self.dtype), self.qkv_bias[...].astype(self.dtype)
        if context is None:
            qkv = dense(self.dot_general, x, kernel) + bias[None, None]
            q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        else:
            q = dense(self.dot_general, x, kernel[:, 0]) + bias[0][None, None]
            kv = dense(self.dot_general, context, kernel[:, 1:]) + bias[1:][None, None]
            k, v = kv[:, :, 0], kv[:, :, 1]
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        y = dense(self.dot_general, self.attend(q, k, v, mask), self.out[...].astype(self.dtype), axes=2)
        return y + self.out_bias[...].astype(self.dtype)[None, None]


class FeedForward(nnx.Module):
    """Two dense layers with an activation between them, or SwiGLU (Shazeer 2020): `[..., W] -> [..., W]`."""

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        activation: str = "gelu",
        gated: bool = False,
        matmul: Matmul = "plain",
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        linear = functools.partial(
            nnx.Linear,
            kernel_init=nnx.initializers.xavier_uniform(),
            dot_general=dot_general(matmul),
            dtype=dtype,
            rngs=rngs,
        )
        self.activation = activation
        self.up = linear(width, hidden)
        self.gate = linear(width, hidden) if gated else None
        self.down = linear(hidden, width)

    def __call__(self, x: Float[Array, "*b w"]) -> Float[Array, "*b w"]:
        act = ACTIVATIONS[self.activation]
        h = act(self.up(x)) if self.gate is None else act(self.gate(x)) * self.up(x)
        return self.down(h)


class Block(nnx.Module):
    """A transformer block.

    post_norm: normalise after each residual sum (Vaswani et al. 2017, BERT) instead of before each branch.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        *,
        activation: str,
        gated: bool,
        qk_norm: bool,
        norm_eps: float,
        dropout: float,
        post_norm: bool = False,
        matmul: Matmul = "plain",
        attention: Attending = "plain",
        dtype,
        rngs,
    ):
        self.post_norm = post_norm
        common = {"matmul": matmul, "dtype": dtype, "rngs": rngs}
        self.norm1 = Norm(width, eps=norm_eps)
        self.attention = Attention(width, heads, qk_norm=qk_norm, attention=attention, **common)
        self.norm2 = Norm(width, eps=norm_eps)
        self.mlp = FeedForward(width, hidden, activation=activation, gated=gated, **common)
        self.dropout = dropout

    def __call__(
        self, x: Float[Array, "b n w"], *, mask=None, rotation=None, rng: Key[Array, "b"] | None = None
    ) -> Float[Array, "b n w"]:
        keys = (None, None) if rng is None else split_keys(rng, 2)
        if self.post_norm:
            x = self.norm1(x + drop(self.attention(x, mask=mask, rotation=rotation), self.dropout, keys[0]))
            return self.norm2(x + drop(self.mlp(x), self.dropout, keys[1]))
        x = x + drop(self.attention(self.norm1(x), mask=mask, rotation=rotation), self.dropout, keys[0])
        return x + drop(self.mlp(self.norm2(x)), self.dropout, keys[1])


class Stack(nnx.Module):
    """`depth` blocks whose parameters are stacked on a leading axis, run by `lax.scan` (one block is compiled, whatever
    the depth).

    remat: the name of a policy in `jax.checkpoint_policies`, or "none", which keeps whatever the gradient asks for. The
        towers' default keeps the products with the weights and computes the rest again: less to store, and faster for
        it. "nothing_saveable" keeps the input of each block alone.
    scan: False unrolls the loop over the same parameters: longer to compile, sometimes faster to run.
    """

    def __init__(self, depth: int, *args: Any, remat: str = "none", scan: bool = True, rngs: nnx.Rngs, **kwargs: Any):
        if remat != "none" and not hasattr(jax.checkpoint_policies, remat):
            known = [
                p
                for p in dir(jax.checkpoint_policies)
                if p.endswith("saveable") or p.startswith(("save", "dots", "checkpoint"))
            ]
            raise ValueError(
                f"remat {remat!r} is not a policy of jax.checkpoint_policies; known: none, {', '.join(known)}"
            )
        self.depth, self.remat, self.scan = depth, remat, scan

        @nnx.split_rngs(splits=depth)
        @nnx.vmap(in_axes=0, out_axes=0)
        def stacked(rngs: nnx.Rngs) -> Block:
            return Block(*args, **kwargs, rngs=rngs)

        self.blocks = stacked(rngs)

    def __call__(
        self, x: Float[Array, "b n w"], *, mask=None, rotation=None, rng: Key[Array, "b"] | None = None
    ) -> Float[Array, "b n w"]:
        graphdef, params = nnx.split(self.blocks)
        keys = None if rng is None else split_keys(rng, self.depth)

        def layer(x, inputs):
            params, key = inputs
            if x.dtype != jnp.float32:
                params = jax.tree.map(cast_here, params)
            return constrain_batch(nnx.merge(graphdef, params)(x, mask=mask, rotation=rotation, rng=key)), None

        if self.remat != "none":
            policies = jax.checkpoint_policies
            policy = getattr(policies, self.remat)
            if "dots" in self.remat:
                policy = policies.save_from_both_policies(policy, policies.save_only_these_names(PRODUCT))
            layer = jax.checkpoint(layer, policy=policy, prevent_cse=not self.scan)
        return jax.lax.scan(layer, constrain_batch(x), (params, keys), unroll=1 if self.scan else self.depth)[0]


@jax.custom_vjp
def cast_here(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The same float32 array, which XLA does not cast earlier than the program does.

    It would cast the weights of all layers before the loop over them, and keep the copy until the gradient is done.
    """
    bits = jax.lax.optimization_barrier(jax.lax.bitcast_convert_type(x, jnp.uint32))
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


cast_here.defvjp(lambda x: (cast_here(x), None), lambda _, gradient: (gradient,))


class AttentionPool(nnx.Module):
    """Multi-head attention pooling by one learned query, then a residual MLP (MAP head of big_vision and SigLIP): `[B,
    N, W] -> [B, W]`."""

    def __init__(self, width: int, heads: int, hidden: int, *, activation: str, norm_eps: float, dtype, rngs: nnx.Rngs):
        self.dtype = dtype
        self.probe = nnx.Param(nnx.initializers.xavier_uniform()(rngs.params(), (1, 1, width), jnp.float32))
        self.attention = Attention(width, heads, dtype=dtype, rngs=rngs)
        self.norm = Norm(width, eps=norm_eps)
        self.mlp = FeedForward(width, hidden, activation=activation, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b n w"], mask: Bool[Array, "b n"] | None = None) -> Float[Array, "b w"]:
        y = self.attend(x, mask)
        return y + self.mlp(self.norm(y))

    def attend(self, x: Float[Array, "b n w"], mask: Bool[Array, "b n"] | None) -> Float[Array, "b w"]:
        """The attention of the one query that all examples share."""
        kernel, bias = (p[...].astype(self.dtype) for p in (self.attention.qkv, self.attention.qkv_bias))
        query = jnp.einsum("w,whd->hd", self.probe[0, 0].astype(self.dtype), kernel[:, 0]) + bias[0]
        y = attend_to_all(query, kernel[:, 1], kernel[:, 2], x, mask) + bias[2][None]
        out, out_bias = (p[...].astype(self.dtype) for p in (self.attention.out, self.attention.out_bias))
        return jnp.einsum("bhd,hdw->bw", y, out) + out_bias[None]


class AttentionalPooler(nnx.Module):
    """Attentional pooler of CoCa (Yu et al. 2022, 3.2) in OpenCLIP's form, for its contrastive query alone: tokens that
    come normalised to another width, `[B, N, W] -> [B, D]`, with norms of the query and of what it takes. The query
    and the projections are of width `out`, a multiple of the 8 heads."""

    HEADS = 8

    def __init__(self, width: int, out: int, *, norm_eps: float, dtype, rngs: nnx.Rngs):
        if out % self.HEADS:
            raise ValueError(f"attentional pooler: width {out} is not a multiple of its {self.HEADS} heads")
        linear = functools.partial(
            nnx.Linear, kernel_init=nnx.initializers.xavier_uniform(), use_bias=False, dtype=dtype, rngs=rngs
        )
        self.dtype = dtype
        self.probe = nnx.Param(nnx.initializers.normal(1.0)(rngs.params(), (1, out)))
        self.q_norm = Norm(out, eps=norm_eps)
        self.q, self.k, self.v = linear(out, out), linear(width, out), linear(width, out)
        self.bias = nnx.Param(jnp.zeros((3, out)))
        self.out = linear(out, out, use_bias=True)
        self.norm = Norm(out, eps=norm_eps)

    def __call__(self, x: Float[Array, "b n w"], mask: Bool[Array, "b n"] | None = None) -> Float[Array, "b d"]:
        bias = self.bias[...].astype(self.dtype)
        k, v = (p.kernel[...].astype(self.dtype).reshape(x.shape[-1], self.HEADS, -1) for p in (self.k, self.v))
        query = self.q(self.q_norm(self.probe[...]))[0] + bias[0]
        y = attend_to_all(query.reshape(self.HEADS, -1), k, v, x, mask).reshape(x.shape[0], -1)
        return self.norm(self.out(y + bias[2][None]))


def attend_to_all(
    query: Float[Array, "h d"],
    keys: Float[Array, "w h d"],
    values: Float[Array, "w h d"],
    x: Float[Array, "b n w"],
    mask: Bool[Array, "b n"] | None,
) -> Float[Array, "b h d"]:
    """What one query, the same for all examples, takes from their tokens, by the kernels of keys and values but without
    making these: the query goes back through the projection of the keys instead (whose bias the softmax takes out), and
    the projection of the values (without bias) is applied to the mean of the tokens."""
    back = jnp.einsum("hd,whd->hw", query, keys)
    scores = jnp.einsum("bnw,hw->bhn", x, back, preferred_element_type=jnp.float32) * query.shape[-1] ** -0.5
    if mask is not None:
        scores = jnp.where(mask[:, None], scores, jnp.finfo(jnp.float32).min)
    mean = jnp.einsum("bhn,bnw->bhw", jax.nn.softmax(scores).astype(x.dtype), x)
    return jnp.einsum("bhw,whd->bhd", mean, values)


def attend(
    q: Float[Array, "b n h d"],
    k: Float[Array, "b m h d"],
    v: Float[Array, "b m h d"],
    mask: Bool[Array, "#b 1 #n m"] | None,
) -> Float[Array, "b n h d"]:
    """Softmax attention, the softmax in float32. A query that may see nothing attends evenly.

    Heads are brought in front first: the products are then plain batched matrix products, several times faster on CPU
    than the fused layouts.
    """
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    return jnp.einsum("bhnm,bhmd->bhnd", attention_weights(q, k, mask), v).swapaxes(1, 2)


def attend_cudnn(
    q: Float[Array, "b n h d"],
    k: Float[Array, "b m h d"],
    v: Float[Array, "b m h d"],
    mask: Bool[Array, "#b 1 #n m"] | None,
) -> Float[Array, "b n h d"]:
    """`attend` by cuDNN's flash attention, which keeps no scores in memory, in half precision on NVIDIA GPUs; elsewhere
    `attend` itself.

    JAX gives cuDNN a bias whatever is asked for, and its gradient takes one of even sizes only: odd ones get a token
    that nothing sees.
    """
    if not (on_gpu() and q.dtype in (jnp.bfloat16, jnp.float16)):
        return attend(q, k, v, mask)
    n, m = q.shape[1], k.shape[1]
    rest, more = n % 2, m % 2
    if mask is not None:
        mask = jnp.broadcast_to(mask, (*mask.shape[:2], n, m))
        mask = jnp.pad(mask, ((0, 0), (0, 0), (0, rest), (0, more)))
    q, k, v = (jnp.pad(x, ((0, 0), (0, odd), (0, 0), (0, 0))) for x, odd in ((q, rest), (k, more), (v, more)))
    lengths = jnp.full(len(k), m, jnp.int32) if more and mask is None else None
    y = jax.nn.dot_product_attention(q, k, v, mask=mask, key_value_seq_lengths=lengths, implementation="cudnn")
    return y[:, :n]


def on_gpu() -> bool:
    """Whether what is traced is going to run on GPUs: those of the mesh in context, else of this machine."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return (jax.default_backend() if device is None else device.platform) == "gpu"


ATTEND = {"plain": attend, "cudnn": attend_cudnn}


@jax.custom_vjp
def attention_weights(
    q: Float[Array, "b h n d"], k: Float[Array, "b h m d"], mask: Bool[Array, "#b 1 #n m"] | None
) -> Float[Array, "b h n m"]:
    """How much each query attends to each key: a softmax in float32, rounded to the dtype of `q`.

    These weights are all that the gradient keeps: JAX's own would keep the softmax in float32, the largest array of a
    tower, and make its gradient in float32 as well.
    """
    scores = jnp.einsum("bhnd,bhmd->bhnm", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(scores).astype(q.dtype)


def _weights_forward(q: Array, k: Array, mask: Array | None) -> tuple[Array, tuple[Any, ...]]:
    weights = attention_weights(q, k, mask)
    return weights, (q, k, mask, weights)


def _weights_backward(kept: tuple[Any, ...], gradient: Array) -> tuple[Array, Array, None]:
    q, k, mask, weights = kept
    w = weights.astype(jnp.float32)
    d = gradient.astype(jnp.float32)
    d = w * (d - (w * d).sum(-1, keepdims=True)) * q.shape[-1] ** -0.5
    d = (d if mask is None else jnp.where(mask, d, 0.0)).astype(q.dtype)
    return jnp.einsum("bhnm,bhmd->bhnd", d, k), jnp.einsum("bhnm,bhnd->bhmd", d, q), None


attention_weights.defvjp(_weights_forward, _weights_backward)


def normalise(image: Shaped[Array, "*b c"], mean: Sequence[float], std: Sequence[float], dtype) -> Float[Array, "*b c"]:
    """uint8 pixels to floats, scaled to [0, 1] and normalised by channel; floats pass."""
    if image.dtype != jnp.uint8:
        return image.astype(dtype)
    lead = (None,) * (image.ndim - 1)
    m, s = (jnp.array(x, jnp.float32)[lead] for x in (mean, std))
    return ((image.astype(jnp.float32) / 255 - m) / s).astype(dtype)


def resolve_sizes(
    tower: str, variants: Mapping[str, tuple[int, ...]], variant: str | None, *sizes: int | None
) -> list[int]:
    """width, depth, heads and MLP width: as given, else the variant's; an MLP four times the width where nothing says
    otherwise."""
    if variant is not None and variant not in variants:
        raise ValueError(f"{tower}: unknown variant {variant!r}; {nearest(variant, variants)}")
    preset = (None,) * 4 if variant is None else variants[variant]
    width, depth, heads, hidden = (
        known if given is None else given for given, known in zip(sizes, preset, strict=True)
    )
    if width is None or depth is None or heads is None:
        raise ValueError(f"{tower}: give a variant ({', '.join(variants)}) or width, depth and heads")
    return [width, depth, heads, 4 * width if hidden is None else hidden]


def split_keys(keys: Key[Array, "b"], count: int) -> Key[Array, "{count} b"]:
    """`count` keys from the key of each example."""
    return jax.vmap(lambda key: jax.random.split(key, count), out_axes=1)(keys)


def drop(x: Float[Array, "b ..."], rate: float, keys: Key[Array, "b"] | None) -> Float[Array, "b ..."]:
    """Dropout (inverted), the identity without keys."""
    if keys is None or rate == 0:
        return x
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(keys)
    return jnp.where(kept, x / (1 - rate), jnp.zeros_like(x))


def masked_mean(x: Float[Array, "b n w"], mask: Bool[Array, "b n"] | None) -> Float[Array, "b w"]:
    """Mean over the real tokens (zero where an example has none)."""
    if mask is None:
        return x.mean(1)
    weight = mask.astype(x.dtype)
    return jnp.einsum("bnw,bn->bw", x, weight) / jnp.maximum(weight.sum(1, keepdims=True), 1)


def rotate(x: Float[Array, "b n h d"], rotation: Float[Array, "#b n 2 r"]) -> Float[Array, "b n h d"]:
    """Rotary position embedding (Su et al. 2021): the halves of each head turn by the angles whose cosine and sine
    `rotation` holds."""
    cos, sin = rotation[:, :, None, 0].astype(x.dtype), rotation[:, :, None, 1].astype(x.dtype)
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def rotation_table(coordinates: np.ndarray, head: int, theta: float) -> Float[np.ndarray, "n 2 r"]:
    """Cosines and sines for tokens at `coordinates` [N, axes] (axial: each axis gets an equal share of the `head / 2`
    frequencies)."""
    axes = coordinates.shape[1]
    if head % (2 * axes):
        raise ValueError(f"rotary positions over {axes} axes need a head size divisible by {2 * axes}, got {head}")
    share = head // 2 // axes
    frequency = theta ** -(np.arange(share) / share)
    angle = (coordinates[:, :, None] * frequency).reshape(len(coordinates), -1)
    return np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)


def sincos_table(coordinates: np.ndarray, width: int) -> Float[np.ndarray, "n w"]:
    """Fixed sine-cosine positions (Vaswani et al. 2017; per axis as in MoCo v3): tokens at `coordinates` [N, axes]."""
    axes = coordinates.shape[1]
    if width % (2 * axes):
        raise ValueError(f"sin-cos positions over {axes} axes need a width divisible by {2 * axes}, got {width}")
    share = width // 2 // axes
    frequency = 10_000.0 ** -(np.arange(share) / share)
    angle = coordinates[:, :, None] * frequency
    return np.concatenate([np.sin(angle), np.cos(angle)], -1).reshape(len(coordinates), width).astype(np.float32)


def resize_positions(
    position: Float[Array, "s s w"], shape: Int[Array, "b 2"], length: int
) -> Float[Array, "b {length} w"]:
    """Learned positions for the places of grids of `shape`, row by row: resized bilinearly, antialiased. What lies
    beyond a grid has no meaning."""
    rows, columns = shape[:, :1], shape[:, 1:]
    place = jnp.arange(length)[None]
    row, column = (
        resizing_weights(index, size, position.shape[0])
        for index, size in ((place // columns, rows), (place % columns, columns))
    )
    return jnp.einsum("bni,bnj,ijw->bnw", row, column, position)


def resizing_weights(index: Int[Array, "b n"], size: Int[Array, "b 1"], side: int) -> Float[Array, "b n {side}"]:
    """How much each of `side` places counts for place `index` of `size`: a triangle about it, as wide as a place of the
    coarser grid."""
    scale = (side / size.astype(jnp.float32))[..., None]
    centre = (index.astype(jnp.float32)[..., None] + 0.5) * scale - 0.5
    distance = jnp.abs(jnp.arange(side, dtype=jnp.float32)[None, None] - centre)
    weight = jnp.maximum(0.0, 1.0 - distance / jnp.maximum(scale, 1.0))
    return weight / jnp.maximum(weight.sum(-1, keepdims=True), jnp.finfo(jnp.float32).tiny)

"""Properties that every tower has, over every registered kind and its options."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jaxtyping import TypeCheckError

from bigcl import registry
from bigcl.registry import ConfigError
from bigcl.towers import Encoding, layers, text, vit

SMALL = {"width": 16, "depth": 2, "heads": 2, "mlp_width": 24}
VIT = {"kind": "vit", "image_size": 8, "patch": 4, **SMALL}
TEXT = {"kind": "text", "vocab": 11, "length": 6, **SMALL}
MLP = {"kind": "mlp", "inputs": 5, "widths": [8, 3]}
TOKENS = {"kind": "token_mlp", "length": 6, "widths": [7, 5], "head": [4, 3]}
GRU = {"kind": "gru", "length": 6, "width": 8, "embed_dim": 3}
B = 3

PARTS: dict[str, dict[str, Any]] = {
    "vit-cls": VIT,
    "vit-clip": {**VIT, "pre_norm": True, "patch_bias": False, "activation": "quick_gelu", "embed_dim": 5},
    "vit-mean-sincos": {**VIT, "pool": "mean", "positions": "sincos"},
    "vit-cls-sincos": {**VIT, "positions": "sincos"},
    "vit-map-rotary": {**VIT, "pool": "map", "positions": "rotary", "qk_norm": True},
    "vit-cls-rotary-registers": {**VIT, "positions": "rotary", "registers": 2, "gated": True, "activation": "silu"},
    "vit-mean-registers-dropout": {**VIT, "pool": "mean", "registers": 1, "dropout": 0.5, "patch_dropout": 0.5},
    "vit-one-channel": {**VIT, "channels": 1, "mean": [0.5], "std": [0.2], "pool": "map"},
    "vit-coca": {**VIT, "pool": "coca", "embed_dim": 8, "registers": 1, "pre_norm": True},
    "resnet": {"kind": "resnet", "image_size": 64, "depths": [1, 2, 1, 1], "width": 4, "heads": 4, "embed_dim": 5},
    "text-eot": {**TEXT, "embed_dim": 7, "activation": "quick_gelu"},
    "text-eot-padding": {**TEXT, "pad_id": 0},
    "text-last": {**TEXT, "pool": "last", "causal": False, "embed_dim": 4, "projection_bias": True},
    "text-first": {**TEXT, "pool": "first", "causal": False, "pad_id": 0},
    "text-mean-rotary": {**TEXT, "pool": "mean", "pad_id": 0, "positions": "rotary", "qk_norm": True, "gated": True},
    "text-mean-post-norm": {**TEXT, "pool": "mean", "pad_id": 0, "causal": False, "post_norm": True},
    "text-map-dropout": {**TEXT, "pool": "map", "causal": False, "dropout": 0.3},
    "text-coca": {**TEXT, "pool": "coca", "pad_id": 0, "embed_dim": 7},
    "text-coca-rotary": {**TEXT, "pool": "coca", "pad_id": 0, "causal": False, "positions": "rotary"},
    "mlp": MLP,
    "token-mlp-mean": {**TOKENS, "inputs": 4},
    "token-mlp-attention": {**TOKENS, "vocab": 11, "pool": "attention"},
    "token-mlp-concat": {**TOKENS, "inputs": 4, "pool": "concat", "head": []},
    "gru-frames": {**GRU, "inputs": 4},
    "gru-ids": {**GRU, "vocab": 11},
    "table": {"kind": "table", "rows": 9, "width": 4},
}
EVERY = pytest.mark.parametrize("part", PARTS.values(), ids=PARTS.keys())
TRANSFORMERS = ("vit", "text")
STACKED = pytest.mark.parametrize(
    "part",
    [p for p in PARTS.values() if p["kind"] in TRANSFORMERS],
    ids=[n for n, p in PARTS.items() if p["kind"] in TRANSFORMERS],
)


def build(part: Mapping[str, Any], dtype=jnp.float32) -> nnx.Module:
    """A tower whose parameters are all random, those that start at zero or one too."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: registry.build("tower", part, dtype=dtype, rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(0)
    flat = [(path, p, rng.normal(size=p.shape)) for path, p in nnx.to_flat_state(state)]
    if part["kind"] == "resnet":  # no norm undoes how large its kernels are, and not all of its units should be off
        flat = [
            (path, p, x / 0.3 * (2 * p.shape[-1] / p.size) ** 0.5 if p.ndim > 1 else np.abs(x)) for path, p, x in flat
        ]
    values = [(path, p.replace(jnp.asarray(0.3 * x + (path[-1] == "scale"), p.dtype))) for path, p, x in flat]
    return nnx.merge(graphdef, nnx.from_flat_state(values))


def keys(seed: int, count: int = B) -> Any:
    """A key for each example."""
    return jax.random.split(jax.random.key(seed), count)


def call(tower: nnx.Module, x: Any, mask: Any = None, rng: Any = None) -> Encoding:
    """The compiled tower."""
    return nnx.jit(lambda t, x, mask, rng: t(x, mask, rng))(tower, x, mask, rng)


def inputs(part: Mapping[str, Any], seed: int = 0) -> np.ndarray:
    """A batch; texts end with the end token, then padding of different length."""
    rng = np.random.default_rng(seed)
    match part["kind"]:
        case "vit":
            return rng.integers(0, 256, (B, 8, 8, part.get("channels", 3)), np.uint8)
        case "resnet":
            return rng.integers(0, 256, (B, 64, 64, 3), np.uint8)
        case "text":
            text = rng.integers(1, part["vocab"] - 1, (B, part["length"]), np.int32)
            for row, end in enumerate((5, 4, 2)):
                text[row, end], text[row, end + 1 :] = part["vocab"] - 1, 0
            return text
        case "mlp":
            return rng.normal(size=(B, part["inputs"])).astype(np.float32)
        case "table":
            return (np.array([2, 5, 7], np.int32) + seed) % part["rows"]
        case _ if "inputs" in part:
            return rng.normal(size=(B, part["length"], part["inputs"])).astype(np.float32)
        case _:
            return rng.integers(0, part["vocab"], (B, part["length"]), np.int32)


def width(part: Mapping[str, Any]) -> int:
    match part["kind"]:
        case "mlp":
            return part["widths"][-1]
        case "token_mlp":
            return part["head"][-1] if part["head"] else part["length"] * part["widths"][-1]
        case _:
            return part.get("embed_dim", part["width"])


def loss_and_grads(tower: nnx.Module, x: Any, mask: Any = None, rng: Any = None) -> tuple[Any, Any]:
    """A scalar that feels every output, and its gradient by every parameter."""
    graphdef, state = nnx.split(tower)

    def scalar(state: Any, x: Any) -> Any:
        out = nnx.merge(graphdef, state)(x, mask, rng)
        total = jnp.sin(out.embedding.astype(jnp.float32)).sum()
        return total if out.tokens is None else total + 0.1 * jnp.cos(out.tokens.astype(jnp.float32)).sum()

    return jax.jit(jax.value_and_grad(scalar))(state, x)


def close(got: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Equal trees, up to the tolerance relative to each array's largest entry."""
    for g, e in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(g, e, rtol=0, atol=tolerance * max(1.0, float(jnp.abs(e).max())))


def test_every_registered_tower_is_tested_here():
    assert {part["kind"] for part in PARTS.values()} == set(registry.REGISTRIES["tower"])


@EVERY
def test_says_what_it_reads(part):
    tower, x = nnx.eval_shape(lambda: registry.build("tower", part, rngs=nnx.Rngs(0))), inputs(part)
    assert (tower.reads().shape, tower.reads().dtype) == (x.shape[1:], x.dtype)


@pytest.mark.parametrize("name", ["vit-clip", "vit-mean-sincos", "text-last", "mlp", "token-mlp-mean", "gru-frames"])
def test_features_are_what_the_last_linear_layer_reads(name):
    part = PARTS[name]
    tower, out = build(part), call(build(part), inputs(part))
    if name == "vit-mean-sincos":
        assert out.features is None  # there is none
        return
    layers = {"mlp": "layers", "token_mlp": "head"}.get(part["kind"])
    last = getattr(tower, layers)[-1] if layers else tower.projection
    np.testing.assert_allclose(last(out.features), out.embedding, rtol=1e-4, atol=1e-5)


@EVERY
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_shapes_and_dtypes(part, dtype):
    tower, x = build(part, dtype), inputs(part)
    assert {p.dtype for p in jax.tree.leaves(nnx.state(tower, nnx.Param))} == {jnp.dtype("float32")}
    out = call(tower, x)
    assert isinstance(out, Encoding) and out.embedding.shape == (B, width(part)) and out.embedding.dtype == dtype
    if part["kind"] not in (*TRANSFORMERS, "resnet"):
        assert out.mask is None and (out.tokens is None or out.tokens.shape[:2] == (B, part["length"]))
    else:
        n = part["length"] if part["kind"] == "text" else 4  # patches alone: no class token, no registers
        wide = part["width"] * (32 if part["kind"] == "resnet" else 1)
        assert out.tokens.shape == (B, n, wide) and out.tokens.dtype == dtype
        assert (out.mask is None) == (part.get("pad_id") is None)
    full = call(build(part), x)
    np.testing.assert_allclose(
        out.embedding.astype(jnp.float32), full.embedding, atol=0.1 * float(jnp.abs(full.embedding).max())
    )


@EVERY
def test_jit_equals_eager_and_evaluation_is_deterministic(part):
    tower, x = build(part), inputs(part)
    eager, again, jitted = tower(jnp.asarray(x)), call(tower, x), call(tower, x)
    np.testing.assert_array_equal(jitted.embedding, again.embedding)
    close(jitted, eager)


@EVERY
def test_rows_do_not_see_each_other(part):
    tower, x = build(part), inputs(part)
    y = x.copy()
    y[1:] = inputs(part, seed=5)[1:]
    one, other = call(tower, x).embedding, call(tower, y).embedding
    np.testing.assert_allclose(one[0], other[0], atol=1e-6)
    assert float(jnp.abs(one[1:] - other[1:]).max()) > 1e-2


@EVERY
def test_every_parameter_has_a_gradient(part):
    tower, x = build(part), inputs(part)
    for path, g in nnx.to_flat_state(loss_and_grads(tower, x)[1]):
        assert float(jnp.abs(g[...]).max()) > 0, path


@STACKED
def test_masked_positions_do_not_leak(part):
    """Neither into the embedding nor into the tokens that are real."""
    tower, x = build(part), inputs(part)
    if part["kind"] == "vit":
        mask = np.array([[1, 1, 0, 1], [1, 1, 1, 1], [0, 1, 0, 0]], bool)
        pixels = mask.reshape(B, 2, 2).repeat(4, 1).repeat(4, 2)[..., None]
        y = np.where(pixels, x, inputs(part, seed=1))
    else:
        mask = x != 0
        if part.get("pool") == "last":  # that position is read, so it is real
            mask = np.array([[1, 1, 0, 1, 1, 1], [0, 0, 0, 0, 0, 1], [1, 0, 1, 0, 1, 1]], bool)
        y = np.where(mask, x, np.random.default_rng(3).integers(1, part["vocab"] - 1, x.shape, np.int32))
    assert (x != y).any()

    one, other = call(tower, x, mask), call(tower, y, mask)
    np.testing.assert_allclose(one.embedding, other.embedding, atol=1e-5)
    np.testing.assert_array_equal(one.mask, mask)
    np.testing.assert_allclose(np.asarray(one.tokens)[mask], np.asarray(other.tokens)[mask], atol=1e-5)
    if not part.get("causal", part["kind"] == "text"):  # what is masked here follows the token that is read there
        seen = call(tower, x, np.ones_like(mask)), call(tower, y, np.ones_like(mask))
        assert float(jnp.abs(seen[0].embedding - seen[1].embedding).max()) > 1e-3


@pytest.mark.parametrize("name", [n for n, p in PARTS.items() if p["kind"] in ("token_mlp", "gru")])
def test_masked_steps_do_not_leak_either(name):
    tower, x = build(PARTS[name]), inputs(PARTS[name])
    mask = np.array([[1, 1, 0, 1, 1, 0], [1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]], bool)
    y = np.where(mask if x.ndim == 2 else mask[:, :, None], x, inputs(PARTS[name], seed=1))
    np.testing.assert_allclose(call(tower, x, mask).embedding, call(tower, y, mask).embedding, atol=1e-6)
    full = np.ones_like(mask)
    assert float(jnp.abs(call(tower, x, full).embedding - call(tower, y, full).embedding).max()) > 1e-3


def test_a_gru_is_that_of_flax_with_its_weights():
    """Whose equations are those of PyTorch and cuDNN."""
    tower, x = build(PARTS["gru-frames"]), inputs(PARTS["gru-frames"])
    cell, width = nnx.GRUCell(4, 8, rngs=nnx.Rngs(0)), 8
    cell.dense_i.kernel[...], cell.dense_i.bias[...] = tower.input.kernel[...], tower.input.bias[...]
    cell.dense_h.kernel[...] = tower.state.kernel[...]
    h = jnp.zeros((B, width))
    for t in range(x.shape[1]):
        tower.state_bias[...] = jnp.zeros(width)  # flax's cell has none
        h, _ = cell(h, x[:, t])
    np.testing.assert_allclose(call(tower, x).embedding, tower.projection(h), atol=1e-5)


@pytest.mark.parametrize("name", ["text-eot-padding", "text-first", "text-mean-rotary", "text-coca"])
def test_padding_is_masked_by_its_id(name):
    tower, x = build(PARTS[name]), inputs(PARTS[name])
    out, told = call(tower, x), call(tower, x, x != 0)
    np.testing.assert_array_equal(out.mask, x != 0)
    np.testing.assert_array_equal(out.embedding, told.embedding)
    longer = build({**PARTS[name], "length": 9})
    if PARTS[name].get("positions") == "rotary":  # no parameter has the length, so both are the same tower
        np.testing.assert_allclose(call(longer, np.pad(x, ((0, 0), (0, 3)))).embedding, out.embedding, atol=1e-5)


def test_texts_are_pooled_at_the_first_end():
    """At the largest id, or at the one that is named, and where there is none of it at the first token."""
    x = inputs(PARTS["text-eot"])
    named = build({**PARTS["text-eot"], "embed_dim": None, "eos_id": 3})
    y = x.copy()
    y[y == 3] = 2
    y[0, 2:4], y[1, 5] = 3, 3
    encoded = call(named, y)
    expected = [encoded.tokens[i, place] for i, place in enumerate([2, 5] + [0] * (len(y) - 2))]
    np.testing.assert_array_equal(encoded.embedding, np.stack(expected))
    largest = call(build({**PARTS["text-eot"], "embed_dim": None}), y)
    np.testing.assert_array_equal(
        largest.embedding, np.stack([t[i.argmax()] for t, i in zip(largest.tokens, y, strict=True)])
    )
    with pytest.raises(ConfigError, match="eos_id 3 with pool 'last'"):
        build({**PARTS["text-last"], "eos_id": 3})


def test_causal_text_does_not_see_what_follows():
    tower, x = build(PARTS["text-eot"]), inputs(PARTS["text-eot"])
    y = x.copy()
    y[:, 4:] = 3
    one, other = call(tower, x).tokens, call(tower, y).tokens
    np.testing.assert_allclose(one[:, :4], other[:, :4], atol=1e-6)
    assert float(jnp.abs(one[:, 4:] - other[:, 4:]).max()) > 1e-2
    both_ways = build({**PARTS["text-eot"], "causal": False})
    assert float(jnp.abs(call(both_ways, x).tokens[:, 0] - call(both_ways, y).tokens[:, 0]).max()) > 1e-3


def test_a_class_token_behind_the_text_sees_one_place_more_than_the_text():
    """Nothing further: what the second padding is does not count. The first is seen, and the class token itself only
    where nothing is padding, as in OpenCLIP's CoCa."""
    tower, x = build({**PARTS["text-coca-rotary"], "depth": 1}), inputs(TEXT)
    seen = np.array([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0, 0]], bool)  # ends at 5, 4, 2
    rotation = jnp.asarray(layers.rotation_table(np.arange(7)[:, None], 8, theta=10_000.0))[None]
    tokens = jnp.concatenate([tower.embed[...][x], jnp.broadcast_to(tower.cls[...][None], (B, 1, 16))], 1)

    def pooled(seen):
        return tower.norm(tower.stack(tokens, mask=jnp.asarray(seen)[:, None, None], rotation=rotation))[:, -1]

    close(call(tower, x).embedding, pooled(seen))
    not_late = np.pad(x != 0, ((0, 0), (0, 1)), constant_values=True)
    assert float(jnp.abs(pooled(not_late)[1:] - pooled(seen)[1:]).max()) > 1e-3


@pytest.mark.parametrize("name", ["vit-cls-rotary-registers", "vit-mean-registers-dropout", "text-map-dropout"])
def test_remat_and_scan_change_nothing(name):
    part = PARTS[name]
    x, rng = inputs(part), keys(3)  # with dropout, where there is any
    expected = loss_and_grads(build(part), x, rng=rng)
    for options in ({"remat": "none"}, {"remat": "nothing_saveable"}, {"scan": False}):
        close(loss_and_grads(build({**part, **options}), x, rng=rng), expected)


def primitives(part: Mapping[str, Any]) -> str:
    """The jaxpr of a tower's gradient."""
    graphdef, state = nnx.split(build(part))
    return str(
        jax.make_jaxpr(jax.grad(lambda s: nnx.merge(graphdef, s)(jnp.asarray(inputs(part))).embedding.sum()))(state)
    )


def test_remat_and_scan_do_something():
    plain, remat = primitives({**TEXT, "remat": "none"}), primitives({**TEXT, "remat": "nothing_saveable"})
    assert "checkpoint" not in plain and "remat" not in plain and ("checkpoint" in remat or "remat" in remat)
    plain = primitives(TEXT)
    assert primitives({**TEXT, "depth": 7}).count(" exp ") == plain.count(
        " exp "
    )  # one block is traced, whatever the depth


@pytest.mark.parametrize("positions", ["learned", "sincos", "rotary"])
@pytest.mark.parametrize(("rate", "kept"), [(0.5, 8), (0.75, 4), (0.99, 1), (0.0, 16)])
def test_patch_dropout_keeps_its_share(rate, kept, positions):
    part = {**VIT, "image_size": 16, "pool": "mean", "positions": positions, "patch_dropout": rate}
    tower, x = build(part), np.random.default_rng(0).integers(0, 256, (B, 16, 16, 3), np.uint8)
    out, again, other = (call(tower, x, None, keys(seed)) for seed in (1, 1, 2))
    assert out.tokens.shape == (B, kept, 16)
    np.testing.assert_array_equal(out.embedding, again.embedding)
    whole = call(tower, x)
    assert whole.tokens.shape == (B, 16, 16)
    if rate == 0:
        close(out.embedding, whole.embedding)
    else:
        assert float(jnp.abs(other.embedding - out.embedding).max()) > 1e-3


def test_patch_dropout_keeps_patches_with_their_mask_and_place():
    """With one patch left of two real ones, the result is that of one of these two alone."""
    part = {**VIT, "pool": "mean", "positions": "rotary", "patch_dropout": 0.75}
    tower, x = build(part), inputs(part)
    mask = np.array([[1, 0, 0, 1]] * B, bool)
    alone = [call(tower, x, np.eye(4, dtype=bool)[[i] * B]).embedding for i in (0, 3)]
    seen = set()
    run = nnx.jit(lambda t, x, mask, rng: t(x, mask, rng))
    for seed in range(12):
        out = run(tower, x, mask, keys(seed))
        for row in range(B):
            if out.mask[row, 0]:
                near = [i for i in range(2) if np.allclose(out.embedding[row], alone[i][row], atol=1e-5)]
                assert near
                seen.update(near)
    assert seen == {0, 1}


@pytest.mark.parametrize("pool", ["mean", "map", "cls", "coca"])
def test_each_patch_has_its_place_among_the_embeddings(pool):
    """That of an image in which all other patches are masked when it is pooled."""
    tower = registry.build("tower", {**VIT, "pool": pool, "embed_dim": 8}, rngs=nnx.Rngs(0))
    encoding = tower(jax.random.uniform(jax.random.key(0), (2, *tower.reads().shape)))
    patches = tower.embed_patches(encoding.tokens)
    assert patches.shape == (*encoding.tokens.shape[:2], 8)
    if pool == "mean":
        np.testing.assert_allclose(patches.mean(1), encoding.embedding, atol=1e-5)
    if pool in ("map", "coca"):
        alone = jnp.zeros(patches.shape[:2], bool).at[:, 1].set(True)
        expected = tower.projection(tower.map(encoding.tokens, alone))
        np.testing.assert_allclose(patches[:, 1], expected, atol=1e-5)


def test_dropout_depends_on_its_key_alone():
    part = PARTS["text-map-dropout"]
    tower, x = build(part), inputs(part)
    run = nnx.jit(lambda t, x, rng: t(x, None, rng).embedding)
    one, again, other = (run(tower, x, keys(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert float(jnp.abs(one - other).max()) > 1e-2
    assert float(jnp.abs(one - call(tower, x).embedding).max()) > 1e-2


def test_uint8_pixels_are_normalised_on_the_device():
    part = {**VIT, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}
    tower, x = build(part), inputs(part)
    by_hand = ((x / 255 - np.array(part["mean"])) / np.array(part["std"])).astype(np.float32)
    close(call(tower, x).embedding, call(tower, by_hand).embedding)


# Published sizes. CLIP (Radford et al. 2021): OpenAI's checkpoints, 151,277,313 parameters for B/32 and 427,616,513 for
# L/14, of which one is the scale; H and g: OpenCLIP's (632.08M + 354.03M; 1012.65M). SigLIP (Zhai et al. 2023): 92.88M
# + 110.27M for B/16, 428.23M + 449.73M for So400m/14 at 27 x 27 patches. ViT: less the classifier.
CLIP_IMAGE = {"kind": "vit", "pre_norm": True, "patch_bias": False, "activation": "quick_gelu", "norm_eps": 1e-5}
SIGLIP_IMAGE = {"kind": "vit", "pool": "map"}
SIGLIP_TEXT = {"kind": "text", "vocab": 32_000, "length": 64, "causal": False, "pool": "last", "projection_bias": True}
COUNTS = [
    ({**CLIP_IMAGE, "variant": "B/32", "embed_dim": 512}, 87_849_216),
    ({**CLIP_IMAGE, "variant": "B/16", "embed_dim": 512}, 86_192_640),
    ({**CLIP_IMAGE, "variant": "L/14", "embed_dim": 768}, 303_966_208),
    ({**CLIP_IMAGE, "variant": "H/14", "embed_dim": 1024}, 632_076_800),
    ({"kind": "text", "variant": "B", "vocab": 49_408, "length": 77, "embed_dim": 512}, 63_428_096),
    ({"kind": "text", "variant": "L", "vocab": 49_408, "length": 77, "embed_dim": 768}, 123_650_304),
    ({"kind": "text", "variant": "H", "vocab": 49_408, "length": 77, "embed_dim": 1024}, 354_032_640),
    ({**SIGLIP_IMAGE, "variant": "B/16", "image_size": 224}, 92_884_224),
    ({**SIGLIP_IMAGE, "variant": "So400m/14", "image_size": 378}, 428_225_600),
    ({**SIGLIP_IMAGE, "variant": "gopt/16", "image_size": 384}, 1_163_659_776),
    ({**SIGLIP_TEXT, "variant": "SigLIP-B", "embed_dim": 768}, 110_271_744),
    ({**SIGLIP_TEXT, "variant": "SigLIP-So400m", "embed_dim": 1152}, 449_734_896),
    ({**CLIP_IMAGE, "variant": "g/14", "embed_dim": 1024}, 1_012_645_632),
    ({**SIGLIP_IMAGE, "variant": "L/16", "image_size": 256}, 315_956_224),
    ({**SIGLIP_TEXT, "variant": "SigLIP-L", "embed_dim": 1024}, 336_194_560),
    ({"kind": "text", "variant": "S", "vocab": 49_408, "length": 77, "embed_dim": 384}, 40_444_032),
    ({"kind": "vit", "variant": "Ti/16"}, 5_524_416),
    ({"kind": "vit", "variant": "S/16"}, 21_665_664),
    ({"kind": "vit", "variant": "B/16"}, 85_798_656),
    ({"kind": "vit", "variant": "L/16"}, 303_301_632),
]  # fmt: skip


def count(part: Mapping[str, Any]) -> int:
    """Parameters, without any being made."""
    tower = nnx.eval_shape(lambda: registry.build("tower", part, rngs=nnx.Rngs(0)))
    return sum(x.size for x in jax.tree.leaves(nnx.state(tower, nnx.Param)))


@pytest.mark.parametrize(
    ("part", "parameters"), COUNTS, ids=lambda x: f"{x['kind']}-{x['variant']}" if isinstance(x, dict) else ""
)
def test_presets_have_the_published_size(part, parameters):
    assert count(part) == parameters


def test_trimmed_images_lose_their_last_rows_and_columns():
    images = np.random.default_rng(0).integers(0, 256, (B, 10, 10, 3), dtype=np.uint8)
    trimmed = call(build({**VIT, "image_size": 10, "trim": True}), jnp.asarray(images)).embedding
    np.testing.assert_array_equal(trimmed, call(build(VIT), jnp.asarray(images[:, :8, :8])).embedding)


def test_every_preset_is_counted():
    for kind, variants in {"vit": vit.VARIANTS, "text": text.VARIANTS}.items():
        assert {part["variant"].partition("/")[0] for part, _ in COUNTS if part["kind"] == kind} == set(variants)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({**VIT, "image_size": 9}, "image_size 9 is not a multiple of patch 4"),
        ({"kind": "vit", "variant": "B"}, "no patch size in variant 'B'"),
        ({"kind": "vit", "variant": "M/16"}, "unknown variant 'M'"),
        ({"kind": "vit", "variant": "So400/14"}, "did you mean 'So400m'"),
        ({"kind": "text", "vocab": 9, "length": 4, "variant": "Siglip-B"}, "did you mean 'SigLIP-B'"),
        ({"kind": "text", "vocab": 9, "length": 4, "width": 8}, "width, depth and heads"),
        ({**VIT, "pool": "coca"}, "vit: pool 'coca' without embed_dim"),
        ({**VIT, "pool": "coca", "embed_dim": 12}, "width 12 is not a multiple of its 8 heads"),
        ({**TEXT, "pool": "coca"}, "text: pool 'coca' without pad_id"),
        ({**VIT, "heads": 3}, "width 16 is not a multiple of heads 3"),
        ({**VIT, "remat": "everything"}, "remat 'everything' is not a policy"),
        ({**VIT, "positions": "rotary", "heads": 8}, "head size divisible by 4, got 2"),
        ({**VIT, "pool": "max"}, "tower.pool: expected"),
        ({**VIT, "paych": 4}, "tower.paych: unknown key; did you mean 'patch'"),
        ({"kind": "vitt"}, "unknown tower 'vitt'; did you mean 'vit'"),
        ({"kind": "text", "vocab": 9}, "missing key 'length'"),
        ({**MLP, "activation": "swish"}, "tower.activation: expected"),
        ({**VIT, "activation": "swish"}, "tower.activation: expected"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_errors_name_the_key(part, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call(build(part), inputs(part))


def test_inputs_of_the_wrong_size_are_an_error():
    with pytest.raises(ValueError, match=r"images of \(12, 12, 3\) reached a tower of image_size 8"):
        call(build(VIT), np.zeros((2, 12, 12, 3), np.uint8))
    with pytest.raises(ValueError, match="7 tokens reached a tower of length 6"):
        call(build(TEXT), np.zeros((2, 7), np.int32))


def test_shapes_are_checked_while_tests_run():
    """That is, the import hook of conftest.py is at work."""
    with pytest.raises(TypeCheckError, match="image"):
        build(VIT)(jnp.zeros((8, 8, 3), jnp.uint8))


def grid_of(rows: int, columns: int, tokens: int, seed: int = 0) -> tuple[Any, Any, Any]:
    """One picture as the transform `naflex` gives it: patches, mask, shape."""
    real = np.arange(tokens) < rows * columns
    patches = np.random.default_rng(seed).integers(0, 256, (1, tokens, 48), np.uint8) * real[None, :, None]
    return patches.astype(np.uint8), real[None], np.array([[rows, columns]], np.int32)


@pytest.mark.parametrize("pool", ["cls", "mean", "map"])
def test_a_square_picture_is_the_same_to_naflex(pool):
    """With as many patches as there are positions nothing is interpolated."""
    x = inputs(VIT)
    patches = x.reshape(B, 2, 4, 2, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(B, 4, 48)
    shape = np.full((B, 2), 2, np.int32)
    plain, native = build({**VIT, "pool": pool}), build({**VIT, "pool": pool, "naflex": True})
    run = nnx.jit(lambda t, x, mask, shape: t(x, mask, shape=shape).embedding)
    close(run(native, patches, np.ones((B, 4), bool), shape), call(plain, x).embedding)


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (2, 7), (1, 3), (3, 1), (9, 2)])
def test_naflex_positions_are_resized_as_a_picture(rows, columns):
    position = np.random.default_rng(0).normal(size=(4, 4, 5)).astype(np.float32)
    found = layers.resize_positions(jnp.asarray(position), jnp.array([[rows, columns], [4, 4]]), 20)
    expected = jax.image.resize(position, (rows, columns, 5), "linear", antialias=True).reshape(-1, 5)
    np.testing.assert_allclose(found[0, : rows * columns], expected, atol=1e-5)
    np.testing.assert_allclose(found[1, :16], position.reshape(16, 5), atol=1e-6)


def test_naflex_does_not_see_padding():
    tower = build({**VIT, "image_size": 16, "pool": "map", "naflex": True})
    run = nnx.jit(lambda t, x, mask, shape: t(x, mask, shape=shape).embedding)
    (patches, mask, shape), (other, _, _) = grid_of(2, 3, 9), grid_of(3, 3, 9, seed=1)
    noisy = np.where(mask[..., None], patches, other)
    close(run(tower, noisy, mask, shape), run(tower, patches, mask, shape))
    close(run(tower, patches[:, :6], mask[:, :6], shape), run(tower, patches, mask, shape))
    turned = run(tower, patches, mask, shape[:, ::-1])
    assert float(jnp.abs(turned - run(tower, patches, mask, shape)).max()) > 1e-3
    assert {k: (v.shape, v.dtype) for k, v in tower.reads().items()} == {
        "": ((16, 48), jnp.uint8), "_mask": ((16,), jnp.bool_), "_shape": ((2,), jnp.int32),
    }  # fmt: skip


def test_naflex_wants_patches_and_their_shape():
    tower = build({**VIT, "naflex": True})
    with pytest.raises(ValueError, match="the transform 'naflex' makes them"):
        tower(jnp.zeros((1, 8, 8, 3), jnp.uint8))
    with pytest.raises(ValueError, match="needs the shape of each picture"):
        tower(jnp.zeros((1, 4, 48), jnp.uint8))
    with pytest.raises(ConfigError, match="only learned ones are interpolated"):
        build({**VIT, "naflex": True, "positions": "rotary"})

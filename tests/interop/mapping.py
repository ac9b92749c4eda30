"""Where the weights of other implementations lie in a bigcl task: tables from their names to bigcl's paths.

In a name, `*` is the number of a layer; in bigcl it is an index into the leading axis of the stacked blocks. Norms,
dense layers and attentions are spelled by `norm`, `linear`, `heads` and `multihead`, so that a table lists modules.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class Place(NamedTuple):
    """Where an outside weight goes.

    path: in the task.
    kernel: whether its output axis comes first, `[out, in]` or `[out, channels, height, width]`; bigcl's comes last.
    part: which of queries, keys and values it holds; None where there are no such parts, or it holds all three.
    """

    path: str
    kernel: bool = False
    part: int | slice | None = None


Table = Mapping[str, Place]

Q, K, V, KV = 0, 1, 2, slice(1, 3)


def norm(name: str, path: str) -> Table:
    return {f"{name}.weight": Place(f"{path}/scale"), f"{name}.bias": Place(f"{path}/bias")}


def linear(name: str, path: str) -> Table:
    return {f"{name}.weight": Place(f"{path}/kernel", kernel=True), f"{name}.bias": Place(f"{path}/bias")}


def heads(name: str, path: str, part: int | slice | None = None) -> Table:
    """A dense layer into or out of attention heads."""
    return {f"{name}.weight": Place(path, True, part), f"{name}.bias": Place(f"{path}_bias", False, part)}


def multihead(name: str, path: str) -> Table:
    """`torch.nn.MultiheadAttention`."""
    fused = {
        f"{name}.in_proj_weight": Place(f"{path}/qkv", kernel=True),
        f"{name}.in_proj_bias": Place(f"{path}/qkv_bias"),
    }
    return {**fused, **heads(f"{name}.out_proj", f"{path}/out")}


def under(name: str, path: str, table: Table) -> Table:
    """The same table for a module inside another."""
    return {f"{name}.{k}": place._replace(path=f"{path}/{place.path}") for k, place in table.items()}


IMAGE, TEXT = "towers/image", "towers/text"
IMAGE_BLOCKS, TEXT_BLOCKS = f"{IMAGE}/stack/blocks", f"{TEXT}/stack/blocks"

TRANSFORMERS_BLOCK = {
    **norm("layer_norm1", "norm1"),
    **heads("self_attn.q_proj", "attention/qkv", Q),
    **heads("self_attn.k_proj", "attention/qkv", K),
    **heads("self_attn.v_proj", "attention/qkv", V),
    **heads("self_attn.out_proj", "attention/out"),
    **norm("layer_norm2", "norm2"),
    **linear("mlp.fc1", "mlp/up"),
    **linear("mlp.fc2", "mlp/down"),
}

TRANSFORMERS_CLIP = {
    "vision_model.embeddings.class_embedding": Place(f"{IMAGE}/cls"),
    "vision_model.embeddings.patch_embedding.weight": Place(f"{IMAGE}/embed/kernel", kernel=True),
    "vision_model.embeddings.position_embedding.weight": Place(f"{IMAGE}/position"),
    **norm("vision_model.pre_layrnorm", f"{IMAGE}/pre_norm"),
    **under("vision_model.encoder.layers.*", IMAGE_BLOCKS, TRANSFORMERS_BLOCK),
    **norm("vision_model.post_layernorm", f"{IMAGE}/norm"),
    "visual_projection.weight": Place(f"{IMAGE}/projection/kernel", kernel=True),
    "text_model.embeddings.token_embedding.weight": Place(f"{TEXT}/embed"),
    "text_model.embeddings.position_embedding.weight": Place(f"{TEXT}/position"),
    **under("text_model.encoder.layers.*", TEXT_BLOCKS, TRANSFORMERS_BLOCK),
    **norm("text_model.final_layer_norm", f"{TEXT}/norm"),
    "text_projection.weight": Place(f"{TEXT}/projection/kernel", kernel=True),
    "logit_scale": Place("log_scale"),
}

TRANSFORMERS_SIGLIP = {
    **linear("vision_model.embeddings.patch_embedding", f"{IMAGE}/embed"),
    "vision_model.embeddings.position_embedding.weight": Place(f"{IMAGE}/position"),
    **under("vision_model.encoder.layers.*", IMAGE_BLOCKS, TRANSFORMERS_BLOCK),
    **norm("vision_model.post_layernorm", f"{IMAGE}/norm"),
    "vision_model.head.probe": Place(f"{IMAGE}/map/probe"),
    **multihead("vision_model.head.attention", f"{IMAGE}/map/attention"),
    **norm("vision_model.head.layernorm", f"{IMAGE}/map/norm"),
    **linear("vision_model.head.mlp.fc1", f"{IMAGE}/map/mlp/up"),
    **linear("vision_model.head.mlp.fc2", f"{IMAGE}/map/mlp/down"),
    "text_model.embeddings.token_embedding.weight": Place(f"{TEXT}/embed"),
    "text_model.embeddings.position_embedding.weight": Place(f"{TEXT}/position"),
    **under("text_model.encoder.layers.*", TEXT_BLOCKS, TRANSFORMERS_BLOCK),
    **norm("text_model.final_layer_norm", f"{TEXT}/norm"),
    **linear("text_model.head", f"{TEXT}/projection"),
    "logit_scale": Place("log_scale"),
    "logit_bias": Place("bias"),
}

OPENAI_BLOCK = {
    **norm("ln_1", "norm1"),
    **multihead("attn", "attention"),
    **norm("ln_2", "norm2"),
    **linear("mlp.c_fc", "mlp/up"),
    **linear("mlp.c_proj", "mlp/down"),
}

OPENAI_TEXT = {
    "token_embedding.weight": Place("embed"),
    "positional_embedding": Place("position"),
    **under("transformer.resblocks.*", "stack/blocks", OPENAI_BLOCK),
    **norm("ln_final", "norm"),
}

OPENAI_CLIP = {  # its projections are input axis first
    "visual.class_embedding": Place(f"{IMAGE}/cls"),
    "visual.conv1.weight": Place(f"{IMAGE}/embed/kernel", kernel=True),
    "visual.positional_embedding": Place(f"{IMAGE}/position"),
    **norm("visual.ln_pre", f"{IMAGE}/pre_norm"),
    **under("visual.transformer.resblocks.*", IMAGE_BLOCKS, OPENAI_BLOCK),
    **norm("visual.ln_post", f"{IMAGE}/norm"),
    "visual.proj": Place(f"{IMAGE}/projection/kernel"),
    **{name: place._replace(path=f"{TEXT}/{place.path}") for name, place in OPENAI_TEXT.items()},
    "text_projection": Place(f"{TEXT}/projection/kernel"),
    "logit_scale": Place("log_scale"),
}

TIMM_BLOCK = {
    **norm("norm1", "norm1"),
    **heads("attn.qkv", "attention/qkv"),
    **heads("attn.proj", "attention/out"),
    **norm("norm2", "norm2"),
    **linear("mlp.fc1", "mlp/up"),
    **linear("mlp.fc2", "mlp/down"),
}

OPEN_CLIP_SIGLIP = {  # the image tower is timm's
    **linear("visual.trunk.patch_embed.proj", f"{IMAGE}/embed"),
    "visual.trunk.pos_embed": Place(f"{IMAGE}/position"),
    **under("visual.trunk.blocks.*", IMAGE_BLOCKS, TIMM_BLOCK),
    **norm("visual.trunk.norm", f"{IMAGE}/norm"),
    "visual.trunk.attn_pool.latent": Place(f"{IMAGE}/map/probe"),
    **heads("visual.trunk.attn_pool.q", f"{IMAGE}/map/attention/qkv", Q),
    **heads("visual.trunk.attn_pool.kv", f"{IMAGE}/map/attention/qkv", KV),
    **heads("visual.trunk.attn_pool.proj", f"{IMAGE}/map/attention/out"),
    **norm("visual.trunk.attn_pool.norm", f"{IMAGE}/map/norm"),
    **linear("visual.trunk.attn_pool.mlp.fc1", f"{IMAGE}/map/mlp/up"),
    **linear("visual.trunk.attn_pool.mlp.fc2", f"{IMAGE}/map/mlp/down"),
    **under("text", TEXT, OPENAI_TEXT),
    **linear("text.text_projection", f"{TEXT}/projection"),
    "logit_scale": Place("log_scale"),
    "logit_bias": Place("bias"),
}


def locate(table: Table, name: str) -> tuple[Place, int | None]:
    """The place of an outside weight and the number of its layer, if it belongs to one."""
    layer = re.search(r"\.(\d+)\.", name)
    place = table[name if layer is None else name.replace(layer[0], ".*.", 1)]
    return place, None if layer is None else int(layer[1])


def translate(
    weights: Mapping[str, np.ndarray], table: Table, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Outside weights, or their gradients, as a task's arrays of these shapes.

    Every weight must have a place (KeyError), and every array must be filled (ValueError).
    """
    arrays = {path: np.full(shape, np.nan, np.float32) for path, shape in shapes.items()}
    for name, weight in weights.items():
        place, layer = locate(table, name)
        array = arrays[place.path] if layer is None else arrays[place.path][layer]
        if place.part is not None:
            array = array[..., place.part, :, :]
        if place.kernel:
            weight = weight.T if weight.ndim == 2 else weight.transpose(2, 3, 1, 0)
        array[...] = weight.reshape(array.shape)
    missing = [path for path, array in arrays.items() if np.isnan(array).any()]
    if missing:
        raise ValueError(f"no weight for {', '.join(missing)}; extend the table")
    return arrays

"""CLIP's ResNets, as open_clip has them; the names are OpenAI's.

Batch norms are folded into the convolutions before them: at inference they are constants, and bigcl's tower has none.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bigcl.interop.table import K, Q, Row, Table, V, channels_first, into_heads, linear

EPSILON = 1e-5
"""Of PyTorch's batch norm."""

STEM = ("conv1", "conv2", "conv3")
Tensors = dict[str, np.ndarray]


def table(depths: Sequence[int]) -> Table:
    """The names of a tower whose stages have so many blocks."""
    rows = [*(row for i, name in enumerate(STEM) for row in convolution(name, f"stem/{i}"))]
    for stage, depth in enumerate(depths):
        for block in range(depth):
            outer, inner = f"layer{stage + 1}.{block}", f"stages/{stage}/{block}"
            rows += [row for name in STEM for row in convolution(f"{outer}.{name}", f"{inner}/{name}")]
            rows += convolution(f"{outer}.downsample.0", f"{inner}/shortcut")
    return (
        *rows,
        Row("attnpool.positional_embedding", "position"),
        *into_heads("attnpool.q_proj", "attention", Q),
        *into_heads("attnpool.k_proj", "attention", K),
        *into_heads("attnpool.v_proj", "attention", V),
        *linear("attnpool.c_proj", "projection"),
    )


def convolution(name: str, path: str) -> Table:
    """A convolution with its bias, which in the file is that of the norm after it."""
    return Row(f"{name}.weight", f"{path}/kernel", channels_first), Row(f"{norm_after(name)}.bias", f"{path}/bias")


def norm_after(name: str) -> str:
    """The batch norm after a convolution: conv2 has bn2, downsample.0 has downsample.1."""
    return name.replace("conv", "bn") if "conv" in name else f"{name[:-1]}1"


def folded(tensors: Tensors, prefix: str) -> Tensors:
    """The same function without batch norms: their factor goes into the convolution, the rest is its bias."""
    tensors = {k: v for k, v in tensors.items() if not k.endswith("num_batches_tracked")}
    for name in [k for k in tensors if k.startswith(prefix) and k.endswith("running_var")]:
        norm = name.removesuffix(".running_var")
        scale, mean, variance = (tensors.pop(f"{norm}.{x}") for x in ("weight", "running_mean", "running_var"))
        factor = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + EPSILON)
        convolution = f"{norm[:-1]}0" if "downsample" in norm else norm.replace("bn", "conv")
        kernel, bias = tensors[f"{convolution}.weight"], tensors[f"{norm}.bias"]
        tensors[f"{convolution}.weight"] = (kernel * factor[:, None, None, None]).astype(np.float32)
        tensors[f"{norm}.bias"] = (bias - mean * factor).astype(np.float32)
    return tensors


def unfolded(tensors: Tensors, prefix: str) -> Tensors:
    """With batch norms again, which do nothing but add the bias."""
    norms = [k.removesuffix(".bias") for k in tensors if k.startswith(prefix) and is_norm(k)]
    for norm in norms:
        one = np.ones_like(tensors[f"{norm}.bias"])
        tensors |= {f"{norm}.weight": one, f"{norm}.running_mean": 0 * one, f"{norm}.running_var": one - EPSILON}
        tensors[f"{norm}.num_batches_tracked"] = np.zeros((), np.int64)
    return tensors


def is_norm(name: str) -> bool:
    """Whether a tensor is the bias of a batch norm."""
    return name.endswith(".bias") and (".bn" in name or ".downsample.1" in name)


def vision_config(tower: dict[str, Any]) -> dict[str, Any]:
    """`vision_cfg` of a tower."""
    return {
        "image_size": tower["image_size"],
        "layers": list(tower["depths"]),
        "width": tower["width"],
        "head_width": 32 * tower["width"] // tower["heads"],
    }


def part(vision: dict[str, Any], embed_dim: int) -> dict[str, Any]:
    """The tower that a `vision_cfg` describes."""
    width = vision.get("width", 64)
    return {
        "kind": "resnet",
        "image_size": vision.get("image_size", 224),
        "depths": list(vision["layers"]),
        "width": width,
        "heads": 32 * width // vision.get("head_width", 64),
        "embed_dim": embed_dim,
    }

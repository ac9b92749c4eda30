"""CoCa (Yu et al. 2022) as open_clip has it: its contrastive part, without the decoder, which writes texts."""

import re
from typing import Any

import numpy as np

from bigcl.interop.model import Inexpressible
from bigcl.interop.table import Row, Table, dense, flat, linear, norm
from bigcl.towers.layers import AttentionalPooler

QUERIES = "visual.attn_pool.query"
Tensors = dict[str, np.ndarray]

POOLER: Table = (
    *norm("attn_pool.ln_k", "norm"),
    Row("attn_pool.query", "map/probe"),
    *norm("attn_pool.ln_q", "map/q_norm"),
    Row("attn_pool.attn.q_proj_weight", "map/q/kernel", dense),
    Row("attn_pool.attn.k_proj_weight", "map/k/kernel", dense),
    Row("attn_pool.attn.v_proj_weight", "map/v/kernel", dense),
    Row("attn_pool.attn.in_proj_bias", "map/bias", flat),
    *linear("attn_pool.attn.out_proj", "map/out"),
    *norm("ln_post", "map/norm"),
)
"""The norm that the tower has after its last block is here that of the pooler's keys."""


def contrastive(tensors: Tensors) -> Tensors:
    """Without what the decoder alone reads: its own tensors, and the pooler's queries after the first. Says which."""
    dropped = [k for k in tensors if k.startswith("text_decoder.")]
    kept = {k: v for k, v in tensors.items() if k not in dropped}
    names = list(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", k) for k in dropped))
    numbers = sum(tensors[k].size for k in dropped)
    if len(kept.get(QUERIES, ())) > 1:
        names.append(f"{QUERIES}[1:]")
        numbers += kept[QUERIES][1:].size
        kept[QUERIES] = kept[QUERIES][:1]
    if names:
        print(f"DECODER LEFT OUT, bigcl has the contrastive part of CoCa ({numbers:,} numbers): {', '.join(names)}")
    return apart(kept)


def apart(tensors: Tensors) -> Tensors:
    """PyTorch keeps the projections of the pooler in one tensor where both its widths are the same."""
    fused = tensors.pop("visual.attn_pool.attn.in_proj_weight", None)
    parts = {} if fused is None else dict(zip("qkv", np.split(fused, 3), strict=True))
    return tensors | {f"visual.attn_pool.attn.{k}_proj_weight": v for k, v in parts.items()}


def check_pooler(vision: dict[str, Any], where: str) -> None:
    """Raises Inexpressible for an attentional pooler of another form than that of the published models."""
    allowed: dict[str, tuple[Any, Any]] = {
        "attentional_pool": (True, False),
        "attn_pooler_heads": (AttentionalPooler.HEADS, 8),
        "pool_type": ("tok", "tok"),
    }
    for key, (value, default) in allowed.items():
        if vision.get(key, default) != value:
            raise Inexpressible(f"{where}.{key} = {vision[key]!r}: with attentional_pool bigcl has {value!r} only")
    eps = (vision.get("norm_kwargs") or {}).get("eps", 1e-5)
    if eps != 1e-5:
        raise Inexpressible(
            f"{where}.norm_kwargs.eps = {eps}: the norms of the pooler have 1e-5, and bigcl one for all"
        )


def refuse(towers: dict[str, dict[str, Any]]) -> None:
    """Raises Inexpressible for a tower that in open_clip is part of a CoCa."""
    for name, tower in towers.items():
        if tower.get("pool") == "coca":
            raise Inexpressible(
                f"task.towers.{name}.pool = 'coca': open_clip's CoCa needs its decoder, which bigcl does not have; "
                "--to safetensors and --to jax take the contrastive part"
            )

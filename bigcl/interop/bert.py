"""BERT, RoBERTa and sentence encoders made of them (MiniLM), as transformers and sentence-transformers have them."""

import pathlib
from typing import Any

import numpy as np

from bigcl.interop import files, sentences
from bigcl.interop.huggingface import tower_of
from bigcl.interop.model import Inexpressible, Model, blank, initial
from bigcl.interop.processors import lowered, read_tokenizer
from bigcl.interop.table import K, Q, Row, Table, V, from_heads, into_heads, linear, norm, read, under

BLOCK: Table = (
    *into_heads("attention.self.query", "attention", Q),
    *into_heads("attention.self.key", "attention", K),
    *into_heads("attention.self.value", "attention", V),
    *from_heads("attention.output.dense", "attention"),
    *norm("attention.output.LayerNorm", "norm1"),
    *linear("intermediate.dense", "mlp/up"),
    *linear("output.dense", "mlp/down"),
    *norm("output.LayerNorm", "norm2"),
)

ENCODER: Table = (
    Row("embeddings.word_embeddings.weight", "embed"),
    Row("embeddings.position_embeddings.weight", "position"),
    *norm("embeddings.LayerNorm", "norm"),
    *under("encoder.layer.*.", "stack/blocks/", BLOCK),
)

DEFAULTS: dict[str, Any] = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
    "hidden_act": "gelu", "layer_norm_eps": 1e-12, "position_embedding_type": "absolute",
    "is_decoder": False,
}  # fmt: skip
PAD = {"bert": 0, "roberta": 1, "xlm-roberta": 1}


def bigcl_form(tensors: dict[str, np.ndarray], kind: str, pad: int) -> dict[str, np.ndarray]:
    """The encoder alone. Every text is of token type 0, whose embedding goes into the positions; RoBERTa's first
    position is the one after that of padding."""
    encoder = {k.removeprefix("bert.").removeprefix("roberta."): v for k, v in tensors.items()}
    dropped = [k for k in encoder if k.startswith(("pooler.", "cls.", "lm_head.", "classifier."))]
    if dropped:
        print(f"left out, no part of the encoder: {', '.join(dropped)}")
    encoder = {k: v for k, v in encoder.items() if k not in dropped and not k.endswith("position_ids")}
    types = encoder.pop("embeddings.token_type_embeddings.weight", None)
    if types is None or "embeddings.position_embeddings.weight" not in encoder:
        raise files.BadFile("no embeddings.token_type_embeddings and position_embeddings: not an encoder like BERT")
    first = 0 if kind == "bert" else pad + 1
    if first >= len(encoder["embeddings.position_embeddings.weight"]):
        raise files.BadFile(f"pad_token_id = {pad}: no position is left after it")
    encoder["embeddings.position_embeddings.weight"] = (
        encoder["embeddings.position_embeddings.weight"][first:] + types[0]
    )
    return encoder


def load(weights: pathlib.Path, config: dict[str, Any]) -> Model:
    """A text tower alone, from a file of weights and the config beside it."""
    kind = config["model_type"]
    config = DEFAULTS | config
    if config["position_embedding_type"] != "absolute" or config["is_decoder"]:
        raise Inexpressible("config.json: position_embedding_type other than 'absolute', or is_decoder")
    pad = config.get("pad_token_id")
    pad = PAD[kind] if pad is None else pad
    how = sentences.read(weights.parent)
    with files.expecting(weights):
        tensors = bigcl_form(files.read_tensors(weights), kind, pad)
        position = tensors["embeddings.position_embeddings.weight"]
        if how.length is not None and how.length < len(position):
            print(f"texts are cut to {how.length} tokens, as they are there; the positions after them are left out")
            tensors["embeddings.position_embeddings.weight"] = position[: how.length]
    names, projection = ENCODER, {}
    if how.dense is not None:
        linear_tensors = files.read_tensors(files.find_weights(how.dense))
        with files.expecting(how.dense):
            bias = "linear.bias" in linear_tensors
            projection = {"embed_dim": len(linear_tensors["linear.weight"]), "projection_bias": bias}
        tensors |= {f"{how.dense.name}.{k}": v for k, v in linear_tensors.items()}
        names += linear(f"{how.dense.name}.linear", "projection")
    text = {
        "kind": "text",
        "vocab": len(tensors.get("embeddings.word_embeddings.weight", [None])),
        "length": len(tensors["embeddings.position_embeddings.weight"]),
        "causal": False,
        "post_norm": True,
        "pool": how.pool,
        "pad_id": pad,
        **projection,
        **tower_of(config, "config"),
    }
    task, shapes = blank({"kind": "two_tower", "towers": {"text": text}, "losses": []})
    tower = {k: s for k, s in shapes.items() if k.startswith("towers/")}
    arrays = read(under("", "towers/text/", names), tensors, tower, where=str(weights))
    tokenizer = read_tokenizer(weights.parent)
    if tokenizer is not None and how.lower:
        lowered(tokenizer)
    return Model(task, arrays | {"log_scale": initial(task, "log_scale")}, tokenizer)

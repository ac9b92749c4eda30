"""What sentence-transformers writes beside an encoder: the modules after it, how it pools, how long a text may be."""

import pathlib
import re
from typing import Any, NamedTuple

from bigcl.interop import files, schema
from bigcl.interop.model import Inexpressible

MODULE_SCHEMA: schema.Schema = {
    "type": schema.needed(schema.WORD),
    "path": schema.needed(
        schema.Kind("the name of a folder beside it, or nothing", lambda x: x == "" or schema.FILE_NAME.fits(x))
    ),
}
ENCODER_SCHEMA: schema.Schema = {"max_seq_length": schema.nullable(schema.TOKENS), "do_lower_case": schema.FLAG}
TOKENIZER_SCHEMA: schema.Schema = {
    "model_max_length": schema.Kind("a number above 0", lambda x: type(x) in (int, float) and x > 0)
}
ORDER = r"Transformer Pooling( Dense)?( Normalize)*"
POOLS = {"mean": "mean", "cls": "first"}
OLD_POOLS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
"""As versions before 5.7 wrote them."""


class Sentences(NamedTuple):
    """How texts become embeddings.

    pool: bigcl's word.  dense: the folder of a linear layer after it.  length: tokens of the longest text; None for as
    many as have positions.  lower: whether texts are lower-cased before the tokenizer.
    """

    pool: str
    dense: pathlib.Path | None
    length: int | None
    lower: bool


def read(folder: pathlib.Path) -> Sentences:
    """What the folder says. Raises Inexpressible for modules that bigcl has no form for, BadFile."""
    found = modules(folder)
    if "Pooling" in found:
        pool = pooling(found["Pooling"] / "config.json")
    else:
        print("no modules.json and no 1_Pooling/config.json: pool='mean', over the tokens that are no padding")
        pool = "mean"
    for name in found.keys() & {"Dense", "Normalize"}:
        check_linear(found[name] / "config.json", name)
    encoder = optional(folder / "sentence_bert_config.json", ENCODER_SCHEMA)
    length = encoder.get("max_seq_length")
    if length is None:
        length = optional(folder / "tokenizer_config.json", TOKENIZER_SCHEMA).get("model_max_length")
    prompt = optional(folder / "config_sentence_transformers.json", {}).get("default_prompt_name")
    if prompt is not None:
        print(f"sentence-transformers begins each text with its prompt {schema.shown(prompt)}; bigcl does not")
    whole = None if length is None else int(min(length, 1 << 20))  # some tokenizers say 1e30 for no limit
    return Sentences(pool, found.get("Dense"), whole, encoder.get("do_lower_case", False))


def modules(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """The folder of each module by its kind, as `modules.json` lists them; without it, of what is usually there."""
    path = folder / "modules.json"
    if not path.exists():
        usual = folder / "1_Pooling"
        return {"Pooling": usual} if (usual / "config.json").exists() else {}
    records = files.read_json_list(path)
    for i, record in enumerate(records):
        schema.check(record, MODULE_SCHEMA, f"{path}: [{i}].")
    kinds = [record["type"].rpartition(".")[2] for record in records]
    if not re.fullmatch(ORDER, " ".join(kinds)):
        raise Inexpressible(
            f"{path}: {schema.shown(', '.join(kinds))}: bigcl reads Transformer, Pooling, Dense and Normalize, in this "
            "order"
        )
    if records[0]["path"]:
        raise Inexpressible(
            f"{path}: the Transformer lies in {records[0]['path']}: bigcl reads one beside modules.json"
        )
    return {kind: folder / record["path"] for kind, record in zip(kinds, records, strict=True)}


def pooling(path: pathlib.Path) -> str:
    """bigcl's word for how `Pooling` pools. Raises Inexpressible."""
    config = files.read_json(path)
    given = config.get("pooling_mode")
    if given is None:
        given = [OLD_POOLS.get(k, k) for k, v in config.items() if k.startswith("pooling_mode_") and v is True]
    modes = given if isinstance(given, list) else [given]
    if len(modes) != 1 or modes[0] not in list(POOLS):
        raise Inexpressible(f"{path}: pools by {schema.shown(given)}; bigcl has {', '.join(POOLS)}")
    return POOLS[modes[0]]


def check_linear(path: pathlib.Path, kind: str) -> None:
    """Raises Inexpressible for a `Dense` or `Normalize` that is more than a linear layer or a norm of the embedding."""
    usual: dict[str, Any] = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}
    config = {k: v for k, v in optional(path, {}).items() if v is not None}
    if kind == "Dense":
        usual |= {"activation_function": "torch.nn.modules.linear.Identity", "use_residual": False}
        config = {"activation_function": "torch.nn.modules.activation.Tanh", **config}  # that of a config without one
    for key, value in usual.items():
        if config.get(key, value) != value:
            raise Inexpressible(f"{path}: {key} = {schema.shown(config[key])}; bigcl has {value!r} only")


def optional(path: pathlib.Path, kinds: schema.Schema) -> dict[str, Any]:
    """A JSON object, or nothing if there is no such file. Raises BadFile."""
    return schema.read(path, kinds) if path.exists() else {}

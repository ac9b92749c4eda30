"""open_clip: its own CLIP (the names of OpenAI's), CoCa's contrastive part, and SigLIP, whose image tower is timm's."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from bigcl.interop import bare, coca, files, resnet, schema, timm
from bigcl.interop.model import Inexpressible, Model, Preprocessing, blank, clean_within, ends_before_padding, expect
from bigcl.interop.presets import PRESETS, tokenizer_of
from bigcl.interop.processors import read_tokenizer, write_tokenizer
from bigcl.interop.table import Row, Table, convolution, flat, linear, multihead, norm, read, under, write

CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model", "open_clip_pytorch_model", "model", "pytorch_model")

BLOCK: Table = (
    *norm("ln_1", "norm1"),
    *multihead("attn", "attention"),
    *norm("ln_2", "norm2"),
    *linear("mlp.c_fc", "mlp/up"),
    *linear("mlp.c_proj", "mlp/down"),
)

TEXT: Table = (
    Row("token_embedding.weight", "embed"),
    Row("positional_embedding", "position"),
    Row("cls_emb", "cls", flat),
    *under("transformer.resblocks.*.", "stack/blocks/", BLOCK),
    *norm("ln_final", "norm"),
)

VISUAL: Table = (
    Row("class_embedding", "cls", flat),
    Row("conv1.weight", "embed/kernel", convolution),
    Row("positional_embedding", "position"),
    *norm("ln_pre", "pre_norm"),
    *under("transformer.resblocks.*.", "stack/blocks/", BLOCK),
    Row("proj", "projection/kernel"),
)

SCALARS: Table = (Row("logit_scale", "log_scale"), Row("logit_bias", "bias"))

PROJECTION: Table = (Row("text_projection", "projection/kernel"),)
PROJECTION_WITH_BIAS: Table = linear("text_projection", "projection")


def table(*, trunk: bool, custom_text: bool, bias: bool, depths: Sequence[int] = (), pooler: bool = False) -> Table:
    """trunk: the image tower is timm's.  custom_text: text names have a prefix.  bias: of the text projection.  depths:
    of the stages of a ResNet.  pooler: the image tower has CoCa's."""
    own = VISUAL + (coca.POOLER if pooler else norm("ln_post", "norm"))
    image = timm.TRUNK + linear("proj", "projection") if trunk else own
    image = resnet.table(depths) if depths else image
    text = TEXT + (PROJECTION_WITH_BIAS if bias else PROJECTION)
    return (
        *under("visual.trunk." if trunk else "visual.", "towers/image/", image),
        *under("text." if custom_text else "", "towers/text/", text),
        *SCALARS,
    )


ACTIVATIONS: dict[str, dict[str, Any]] = {
    "gelu": {},
    "gelu_tanh": {"act_kwargs": {"approximate": "tanh"}},
    "quick_gelu": {},
}
TEXT_POOLS = {"eot": "argmax", "last": "last", "first": "first"}


def timm_name(tower: dict[str, Any]) -> str:
    """The name of a SigLIP image tower in timm. Raises Inexpressible: open_clip takes timm's models as they are."""
    sizes: dict[tuple[int, ...], str] = {
        (768, 12, 12, 3072): "base",
        (1024, 24, 16, 4096): "large",
        (1152, 27, 16, 4304): "so400m",
        (1536, 40, 16, 6144): "giantopt",
    }
    published: dict[str, dict[int, tuple[int, ...]]] = {
        "base": {32: (256,), 16: (224, 256, 384, 512)},
        "large": {16: (256, 384, 512)},
        "so400m": {14: (224, 378, 384), 16: (256, 384, 512)},
        "giantopt": {16: (256, 384)},
    }
    key = (tower["width"], tower["depth"], tower["heads"], tower["mlp_width"])
    name = sizes.get(key, "")
    if tower["image_size"] not in published.get(name, {}).get(tower["patch"], ()):
        raise Inexpressible(
            f"task.towers.image: pool = 'map' at {key[0]} wide, {key[1]} deep, {key[2]} heads, patch {tower['patch']}, "
            f"{tower['image_size']} px: open_clip has attention pooling in SigLIP's published sizes only"
        )
    known = timm.siglip_activation(name, tower["patch"], tower["image_size"])
    if tower["activation"] != known:
        raise Inexpressible(
            f"task.towers.image.activation = {tower['activation']!r}: this size has {known!r} in open_clip"
        )
    return f"vit_{name}_patch{tower['patch']}_siglip_{tower['image_size']}"


def vision_config(tower: dict[str, Any]) -> dict[str, Any]:
    """`vision_cfg` of an image tower that is open_clip's own. Raises Inexpressible."""
    where = "task.towers.image"
    if tower["pool"] == "mean" and tower["registers"] != 1:
        raise Inexpressible(
            f"{where}.registers = {tower['registers']}: open_clip has mean pooling beside a class token only; train "
            "with registers=1, which is the same, or with pool='cls'"
        )
    expect(
        tower, where, "open_clip", pool=("cls", "mean"), activation=ACTIVATIONS, pre_norm=(False, True),
        patch_bias=(False, True), trim=(False, True), registers=(int(tower["pool"] == "mean"),),
    )  # fmt: skip
    if not tower["embed_dim"]:
        raise Inexpressible(f"{where}.embed_dim: open_clip always projects the image; set it")
    return {
        "image_size": tower["image_size"],
        "patch_size": tower["patch"],
        "layers": tower["depth"],
        "width": tower["width"],
        "head_width": tower["width"] // tower["heads"],
        "mlp_ratio": timm.ratio(tower),
        "no_ln_pre": not tower["pre_norm"],
        "pool_type": "tok" if tower["pool"] == "cls" else "avg",
        "norm_kwargs": {"eps": tower["norm_eps"]},
        **ACTIVATIONS[tower["activation"]],
    }


def text_config(tower: dict[str, Any]) -> dict[str, Any]:
    """`text_cfg` of a text tower. Raises Inexpressible."""
    where = "task.towers.text"
    hidden = ends_before_padding(tower)  # so that the mask of padding changes nothing
    expect(
        tower, where, "open_clip", pool=TEXT_POOLS, activation=ACTIVATIONS, causal=(True, False),
        projection_bias=(False, True), pad_id=(tower["pad_id"],) if hidden else (None,), eos_id=(tower["eos_id"],),
    )  # fmt: skip
    if not tower["embed_dim"]:
        raise Inexpressible(f"{where}.embed_dim: open_clip always projects the text; set it")
    return {
        "context_length": tower["length"],
        "vocab_size": tower["vocab"],
        "width": tower["width"],
        "heads": tower["heads"],
        "layers": tower["depth"],
        "mlp_ratio": timm.ratio(tower),
        "no_causal_mask": not tower["causal"],
        "pool_type": TEXT_POOLS[tower["pool"]] if tower["eos_id"] is None else "eos",
        **({} if tower["eos_id"] is None else {"eos_id": tower["eos_id"]}),
        "proj_bias": tower["projection_bias"],
        "norm_kwargs": {"eps": tower["norm_eps"]},
        **ACTIVATIONS[tower["activation"]],
    }


def own_form(arrays: dict[str, np.ndarray], tower: dict[str, Any]) -> dict[str, np.ndarray]:
    """The same function with the arrays of open_clip's own image tower: patches without bias, and always a class
    token. Beside mean pooling that is one register, which has no position."""
    arrays = timm.without_patch_bias(arrays, tower) if tower["patch_bias"] else dict(arrays)
    if tower["pool"] == "mean":
        register, position = arrays.pop("towers/image/registers"), arrays["towers/image/position"]
        arrays["towers/image/cls"] = register
        arrays["towers/image/position"] = np.concatenate([np.zeros_like(register), position])
    return arrays


def model_config(model: Model) -> tuple[dict[str, Any], Table, dict[str, np.ndarray]]:
    """`model_cfg`, the table of names, and the arrays in open_clip's form. Raises Inexpressible."""
    image, text = model.tower("image", "resnet"), model.tower("text")
    coca.refuse({"image": image, "text": text})
    text_cfg = text_config(text)
    trunk = image.get("pool") == "map"
    if image["kind"] == "resnet":
        vision_cfg: dict[str, Any] = resnet.vision_config(image)
        arrays = dict(model.arrays)
    elif trunk:
        expect(
            image, "task.towers.image", "open_clip's SigLIP", pool=("map",), activation=ACTIVATIONS,
            patch_bias=(False, True), trim=(False, True),
        )  # fmt: skip
        if image["embed_dim"] or image["norm_eps"] != 1e-6:
            raise Inexpressible("task.towers.image: open_clip's SigLIP has embed_dim None and norm_eps 1e-6")
        vision_cfg = {
            "image_size": image["image_size"],
            "timm_model_name": timm_name(image),
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        }
        arrays = timm.trunk_form(model.arrays, image)
    else:
        vision_cfg, arrays = vision_config(image), own_form(model.arrays, image)
    own = image["kind"] == "vit" and not trunk
    quick = {t["activation"] == "quick_gelu" for t in ((image, text) if own else (text,))}
    if len(quick) == 2:
        raise Inexpressible("task.towers.*.activation: open_clip has quick_gelu in both towers or in none")
    config: dict[str, Any] = {
        "embed_dim": text["embed_dim"],
        "quick_gelu": quick == {True},
        "custom_text": trunk,
        "vision_cfg": vision_cfg,
        "text_cfg": text_cfg,
    }
    if "bias" in arrays:
        config["init_logit_bias"] = -10.0
    depths = image["depths"] if image["kind"] == "resnet" else ()
    return config, table(trunk=trunk, custom_text=trunk, bias=text["projection_bias"], depths=depths), arrays


def export(model: Model, out: pathlib.Path) -> None:
    """Writes a folder for `open_clip.create_model_and_transforms("local-dir:OUT")` and `open_clip.get_tokenizer`."""
    config, names, arrays = model_config(model)
    assert model.preprocessing is not None
    preprocess = preprocess_config(model.preprocessing)
    if model.tokenizer is not None:
        write_tokenizer(model, out)
        config["text_cfg"]["hf_tokenizer_name"] = (
            "."  # in a local folder the name counts for nothing, but must be there
        )
    tensors = write(names, arrays)
    if model.tower("image", "resnet")["kind"] == "resnet":
        tensors = resnet.unfolded(tensors, "visual.")
    files.write_safetensors(tensors, out / "open_clip_model.safetensors")
    files.write_json({"model_cfg": config, "preprocess_cfg": preprocess}, out / CONFIG)


def preprocess_config(preprocessing: Preprocessing) -> dict[str, Any]:
    """Preprocessing in open_clip's words. Raises Inexpressible."""
    preprocessing.expect_whole("open_clip")
    if preprocessing.method == "lanczos":
        raise Inexpressible("transforms: resize with method 'lanczos': open_clip has bicubic and bilinear")
    return {
        "size": preprocessing.size,
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "interpolation": preprocessing.method,
        "resize_mode": preprocessing.mode,
    }


TOWER = {
    "width": schema.WIDTH,
    "mlp_ratio": schema.RATIO,
    "pool_type": schema.WORD,
    "act_kwargs": schema.Maybe({"approximate": schema.WORD}),
    "norm_kwargs": schema.Maybe({"eps": schema.EPSILON}),
}
VISION_SCHEMA = TOWER | {
    "layers": schema.Kind(
        "a whole number up to 1,024, or a list of four, those of a ResNet",
        lambda x: all(map(schema.DEPTH.fits, x)) and len(x) == 4 if isinstance(x, list) else schema.DEPTH.fits(x),
    ),
    "head_width": schema.WIDTH,
    "patch_size": schema.nullable(schema.PATCH),
    "image_size": schema.PIXELS,
    "no_ln_pre": schema.FLAG,
    "timm_model_name": schema.WORD,
    "timm_proj": schema.nullable(schema.WORD),
}
TEXT_SCHEMA = TOWER | {
    "context_length": schema.TOKENS,
    "vocab_size": schema.VOCABULARY,
    "heads": schema.HEADS,
    "layers": schema.DEPTH,
    "no_causal_mask": schema.FLAG,
    "proj_bias": schema.FLAG,
    "pad_id": schema.ID,
    "eos_id": schema.ID,
    "embed_cls": schema.FLAG,
    "tokenizer_kwargs": schema.Maybe({"clean": schema.one_of("whitespace", "lower", "canonicalize")}),
}
MODEL_SCHEMA = {
    "embed_dim": schema.needed(schema.WIDTH),
    "vision_cfg": VISION_SCHEMA,
    "text_cfg": TEXT_SCHEMA,
    "quick_gelu": schema.FLAG,
    "custom_text": schema.FLAG,
}
PREPROCESS_SCHEMA = {
    "size": schema.Kind(
        "a whole number up to 16,384, or a list of two",
        lambda x: all(map(schema.PIXELS.fits, x)) and len(x) == 2 if isinstance(x, list) else schema.PIXELS.fits(x),
    ),
    "mean": schema.MEAN,
    "std": schema.STD,
    "interpolation": schema.WORD,
    "resize_mode": schema.WORD,
}


def activation(config: dict[str, Any], quick_gelu: bool) -> str:
    """bigcl's name of what a `vision_cfg` or `text_cfg` says."""
    if quick_gelu:
        return "quick_gelu"
    return "gelu_tanh" if (config.get("act_kwargs") or {}).get("approximate") == "tanh" else "gelu"


def image_part(vision: dict[str, Any], config: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """The image tower that `model_cfg` and the tensors describe."""
    if "timm_model_name" in vision:
        name = vision["timm_model_name"]
        if "_siglip_" not in name or "_gap_" in name or vision.get("timm_proj") != "none":
            raise Inexpressible(f"{CONFIG}: timm_model_name {name!r}: bigcl reads SigLIP's image towers")
        trunk = {k.removeprefix("visual.trunk."): s for k, s in shapes.items() if k.startswith("visual.trunk.")}
        return timm.tower_of(trunk, architecture=name, pool="map", heads=None, size=vision.get("image_size"))
    known = {"layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size", "patch_dropout", "no_ln_pre"}
    known |= {"pool_type", "act_kwargs", "norm_kwargs", "output_tokens"}
    known |= {"attentional_pool", "attn_pooler_queries", "attn_pooler_heads"}
    refuse_unknown(vision, known, "vision_cfg")
    if not isinstance(vision.get("layers", 12), int):
        return resnet.part(vision, config["embed_dim"])
    if vision.get("pool_type", "tok") not in ("tok", "avg"):
        raise Inexpressible(f"{CONFIG}: vision_cfg.pool_type {vision['pool_type']!r}")
    pool = "mean" if vision.get("pool_type", "tok") == "avg" else "cls"
    if vision.get("attentional_pool"):
        coca.check_pooler(vision, f"{CONFIG}: vision_cfg")
        pool = "coca"
    width = vision.get("width", 768)
    return {
        "kind": "vit",
        "image_size": vision.get("image_size", 224),
        "patch": vision.get("patch_size", 16),
        "width": width,
        "depth": vision.get("layers", 12),
        "heads": width // vision.get("head_width", 64),
        "mlp_width": int(width * vision.get("mlp_ratio", 4.0)),
        "pool": pool,
        "registers": int(pool != "cls"),
        "pre_norm": not vision.get("no_ln_pre", False),
        "patch_bias": False,
        "activation": activation(vision, config.get("quick_gelu", False)),
        "norm_eps": (vision.get("norm_kwargs") or {}).get("eps", 1e-5),
        "embed_dim": config["embed_dim"],
    }


def text_part(text: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """The text tower that `model_cfg` describes."""
    known = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "no_causal_mask", "pool_type"}
    known |= {"proj_bias", "act_kwargs", "norm_kwargs", "pad_id", "eos_id", "output_tokens", "hf_tokenizer_name"}
    refuse_unknown(text, known | {"tokenizer_kwargs", "tokenizer_mode", "embed_cls"}, "text_cfg")
    pools = {v: k for k, v in TEXT_POOLS.items()} | {"eos": "eot"}
    width, pool = text.get("width", 512), text.get("pool_type", "argmax")
    if pool not in pools:
        raise Inexpressible(f"{CONFIG}: text_cfg.pool_type {pool!r}; bigcl has {', '.join(pools)}")
    appended: dict[str, Any] = (
        {"pool": "coca", "pad_id": text.get("pad_id", 0), "eos_id": None} if text.get("embed_cls") else {}
    )
    return {
        "kind": "text",
        "vocab": text.get("vocab_size", 49408),
        "length": text.get("context_length", 77),
        "width": width,
        "depth": text.get("layers", 12),
        "heads": text.get("heads", 8),
        "mlp_width": int(width * text.get("mlp_ratio", 4.0)),
        "causal": not text.get("no_causal_mask", False),
        "pool": pools[pool],
        "eos_id": text.get("eos_id", 2) if pool == "eos" else None,
        "activation": activation(text, config.get("quick_gelu", False)),
        "norm_eps": (text.get("norm_kwargs") or {}).get("eps", 1e-5),
        "embed_dim": config["embed_dim"],
        "projection_bias": text.get("proj_bias", False),
        **appended,
    }


def refuse_unknown(config: dict[str, Any], known: set[str], where: str) -> None:
    """Raises Inexpressible for an option that is set and that bigcl has no form for."""
    for key, value in config.items():
        if key not in known and value:
            raise Inexpressible(f"{CONFIG}: {where}.{key} = {value!r}: bigcl has no such option")


def own_tensors(tensors: dict[str, np.ndarray], *, registers: bool) -> dict[str, np.ndarray]:
    """The same function with tensors that bigcl has a place for. registers: beside other poolings the class token is
    one, without a position of its own."""
    tensors = dict(tensors)
    if registers:
        position = tensors["visual.positional_embedding"]
        tensors["visual.class_embedding"] = tensors["visual.class_embedding"] + position[0]
        tensors["visual.positional_embedding"] = position[1:]
    for name in ("logit_scale", "logit_bias"):  # of one element in some files
        if name in tensors:
            tensors[name] = tensors[name].reshape(())
    return tensors


def load(path: pathlib.Path, family: str | None = None) -> Model:
    """A folder with `open_clip_config.json` and weights, as open_clip writes and its Hub repositories have; or weights
    alone of a family of `PRESETS`."""
    weights = files.find_weights(path, WEIGHTS)
    where = weights.with_name(CONFIG)
    if where.exists():
        record = schema.read(where, {"model_cfg": {}, "preprocess_cfg": PREPROCESS_SCHEMA})
        tensors = files.read_tensors(weights)
    else:
        family = bare.checked(weights, family)
        tensors = files.read_tensors(weights)
        record = bare.record(weights, tensors, family)
    config, given = record.get("model_cfg", record), record.get("preprocess_cfg", {})
    for section in ("vision_cfg", "text_cfg"):
        if section not in config:
            raise files.BadFile(f"{where}: no section {section}")
    schema.check(config, MODEL_SCHEMA, f"{where}: ")
    known = {"embed_dim", "vision_cfg", "text_cfg", "multimodal_cfg", "quick_gelu", "custom_text"}
    refuse_unknown(config, known | {"init_logit_bias", "init_logit_scale"}, "model_cfg")
    trunk = "timm_model_name" in config["vision_cfg"]
    with files.expecting(weights):
        tensors = {k: v for k, v in tensors.items() if k not in bare.BESIDE}
        tensors = coca.contrastive(resnet.folded(tensors, "visual."))
        shapes = {k: v.shape for k, v in tensors.items()}
        image, text = image_part(config["vision_cfg"], config, shapes), text_part(config["text_cfg"], config)
    usual = "siglip" if trunk else "coca" if text["pool"] == "coca" else "open_clip"
    preset = PRESETS[family or (usual if "preprocess_cfg" not in record else "open_clip")]  # what open_clip takes
    image |= {k: list(given.get(k, x)) for k, x in zip(("mean", "std"), preset.colours, strict=True)}
    loss = "sigmoid" if "logit_bias" in tensors else "infonce"
    towers = {"image": image, "text": text}
    task, wanted = blank({"kind": "two_tower", "towers": towers, "losses": [{"kind": loss, "of": list(towers)}]})
    with files.expecting(weights):
        tensors = own_tensors(tensors, registers=bool(image.get("registers")))
    prefixed, depths = "text.ln_final.weight" in tensors, image.get("depths", ())
    pooler = image.get("pool") == "coca"
    names = table(trunk=trunk, custom_text=prefixed, bias=text["projection_bias"], depths=depths, pooler=pooler)
    if image.get("registers"):
        names = tuple(r._replace(path="towers/image/registers") if r.path == "towers/image/cls" else r for r in names)
    arrays = read(names, tensors, wanted, where=str(weights))
    if "preprocess_cfg" not in record:
        print(f"{path}: no preprocess_cfg: pictures as published: {preset.said()}")
    size = given.get("size", image["image_size"])
    if image["image_size"] != (size if isinstance(size, int) else size[0]) and not trunk:
        print(f"{path}: preprocess_cfg.size is {size}, the tower's {image['image_size']}; the tower's is taken")
    mode, method = given.get("resize_mode", preset.mode), given.get("interpolation", preset.method)
    if mode not in ("shortest", "squash") or method not in ("bicubic", "bilinear"):
        raise Inexpressible(
            f"{CONFIG}: preprocess_cfg: resize_mode {mode!r} by {method!r}; bigcl has no such transform"
        )
    preprocessing = Preprocessing(
        image["image_size"],
        mode,
        method,
        tuple(image["mean"]),
        tuple(image["std"]),
    )
    tokenizer = read_tokenizer(weights.parent)
    if tokenizer is not None:
        clean_within(tokenizer, (config["text_cfg"].get("tokenizer_kwargs") or {}).get("clean", "whitespace"))
        if text["pool"] == "coca" and not config["text_cfg"].get("hf_tokenizer_name"):
            tokenizer.pad_id = 0  # that of open_clip's own tokenizer, whatever the file says
    elif trunk or not config["text_cfg"].get("hf_tokenizer_name"):
        published = "siglip2" if usual == "siglip" and text["vocab"] in PRESETS["siglip2"].vocab else usual
        tokenizer = tokenizer_of(PRESETS[family or published], text["vocab"])
    return Model(task, arrays, tokenizer, preprocessing)

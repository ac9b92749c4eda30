"""A trained or converted model: task, arrays, tokenizer and preprocessing, read from a folder and written to one."""

import dataclasses
import functools
import pathlib
import string
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal

import jax
import numpy as np
import orbax.checkpoint as ocp
import tokenizers as hf
from flax import nnx
from PIL import Image

from bigcl import registry
from bigcl.checkpoint import Checkpoints
from bigcl.data.tokenizers import FILE, SentencePiece, TokenizersJSON, saved_tokenizer
from bigcl.data.transforms.naflex import grid_shape
from bigcl.experiment import outline
from bigcl.interop import files, schema, sentencepiece
from bigcl.preparation import for_pictures, for_texts, option
from bigcl.registry import ConfigError, Part
from bigcl.state import Arrays, Skeleton
from bigcl.tasks.task import Batch

Method = Literal["bilinear", "bicubic", "lanczos"]


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """From a picture to the input of the tower.

    size: height and width in pixels; in mode "naflex" those of the square whose positions are learned.
    mode: "shortest" resizes the shorter side and crops the middle, "squash" resizes both sides, "naflex" keeps the
        shape and cuts at most `tokens` patches.
    mean, std: per channel, of pixels in [0, 1].
    edge: pixels of what is resized, before the middle `size` of it is cropped; None for `size`.
    """

    size: int
    mode: Literal["shortest", "squash", "naflex"] = "squash"
    method: Method = "bicubic"
    mean: Sequence[float] = (0.5, 0.5, 0.5)
    std: Sequence[float] = (0.5, 0.5, 0.5)
    patch: int | None = None
    tokens: int | None = None
    edge: int | None = None

    @classmethod
    def of(cls, transforms: Sequence[Part], tower: Part) -> "Preprocessing":
        """What the transforms of an evaluation do; of a training, without what is random in it. Where they resize
        nothing the whole picture is squashed, which leaves pictures of the right size as they are. Raises ConfigError
        for a crop of a picture that was resized to no square."""
        size, mean, std = tower["image_size"], tuple(tower["mean"]), tuple(tower["std"])
        if tower.get("naflex"):
            square = {"kind": "naflex", "tokens": (size // tower["patch"]) ** 2}
            naflex = next((t for t in transforms if t["kind"] == "naflex"), square)
            tokens, method = option(naflex, "tokens"), option(naflex, "method")
            longest = tokens if isinstance(tokens, int) else max(tokens)
            return cls(size, "naflex", method, mean, std, tower["patch"], longest)
        resizing = [t for t in transforms if t["kind"] in ("resize", "random_resized_crop")]
        last = resizing[-1] if resizing else {"kind": "resize", "size": size}
        whole = last["kind"] == "random_resized_crop"  # most of the picture, whatever size it had
        crop = whole or any(t["kind"] in ("center_crop", "random_crop") for t in transforms)
        method, resized = option(last, "method"), size if whole else last["size"]
        if not crop:
            return cls(size, "squash", method, mean, std)
        mode: Literal["shortest", "squash"] = "shortest" if isinstance(resized, int) else "squash"
        sides = {resized} if isinstance(resized, int) else set(resized)
        if len(sides) > 1:
            raise ConfigError(f"transforms: resize to {list(resized)} before a crop of {size}: set both sides to one")
        return cls(size, mode, method, mean, std).cropping(sides.pop())

    def cropping(self, edge: int) -> "Preprocessing":
        """The same with pictures that are resized to `edge` before the crop. Raises Inexpressible if it leaves less
        than is cropped."""
        if edge < self.size or not schema.PIXELS.fits(edge):
            raise Inexpressible(f"pictures: resized to {edge} pixels before a crop of {self.size}")
        return dataclasses.replace(self, edge=None if edge == self.size else edge)

    @property
    def resized(self) -> int:
        """Pixels of what is resized: of the shorter side, or of both."""
        return self.edge or self.size

    def at(self, size: int) -> "Preprocessing":
        """The same at another resolution."""
        return dataclasses.replace(self, size=size).cropping(self.resized * size // self.size)

    def keeps(self, picture: Image.Image) -> bool:
        """Whether a picture goes in without being resized."""
        width, height = picture.size
        if self.patch is None or self.tokens is None:
            return width == height == self.resized
        rows, columns = grid_shape(height, width, self.patch, self.tokens)
        return (rows * self.patch, columns * self.patch) == (height, width)

    def transforms(self) -> list[dict[str, Any]]:
        """The same as parts of a config. Resized by Pillow itself, as the libraries do whose numbers are to be met."""
        if self.mode == "naflex":
            return [{"kind": "naflex", "patch": self.patch, "tokens": self.tokens, "method": self.method}]
        size = [self.resized] * 2 if self.mode == "squash" else self.resized
        resize = {"kind": "resize", "method": self.method, "exact": True, "size": size}
        crop = [{"kind": "center_crop", "size": self.size}] if self.crops else []
        return [{"kind": "decode_image"}, resize, *crop]

    @property
    def crops(self) -> bool:
        """Whether the middle of what was resized is cropped."""
        return self.mode == "shortest" or self.resized != self.size

    def expect_whole(self, target: str) -> None:
        """Raises Inexpressible for a resize to another size than that of the crop after it."""
        if self.resized != self.size:
            raise Inexpressible(
                f"transforms: resize to {self.resized} before a crop of {self.size}: {target} crops what it has "
                "resized; set both to the size of the tower"
            )

    def __call__(self, pictures: Sequence[Image.Image]) -> dict[str, np.ndarray]:
        """A batch by bigcl's own transforms: `image`, uint8 `[n, size, size, 3]`, or patches with what goes with
        them."""
        steps = [registry.build("transform", part) for part in self.transforms()]
        rng, result = np.random.default_rng(0), []
        for picture in pictures:
            example: dict[str, Any] = {"image": np.asarray(picture)}
            for step in steps:
                example = step(example, rng)
            result.append(example)
        return {key: np.stack([example[key] for example in result]) for key in result[0]}


@dataclasses.dataclass
class Model:
    """A task with all that goes with it.

    task: the resolved part, with the sizes of its towers written out.
    arrays: float32, by path in the task.
    preprocessing: None without an image tower.
    card: lines for the model card: what it was trained on, with what result.
    """

    task: dict[str, Any]
    arrays: dict[str, np.ndarray]
    tokenizer: TokenizersJSON | None = None
    preprocessing: Preprocessing | None = None
    card: dict[str, Any] = dataclasses.field(default_factory=dict)

    def tower(self, name: str, *others: str) -> dict[str, Any]:
        """The part of a tower. others: kinds that serve beside the vision and text transformer.

        Raises Inexpressible if there is none of its own, or of another kind.
        """
        part, kinds = self.task["towers"].get(name), ({"image": "vit", "text": "text"}[name], *others)
        if not isinstance(part, dict) or part["kind"] not in kinds:
            known = " or ".join(map(repr, kinds))
            raise Inexpressible(
                f"task.towers.{name}: the target needs a tower of its own for {name!r}, of kind {known}"
            )
        return part

    @property
    def length(self) -> int | None:
        """Tokens of the longest text, of its own tower or of the one that it shares; None where that says none."""
        towers = self.task["towers"]
        part = towers.get("text")
        part = towers[part] if isinstance(part, str) else part
        return None if part is None else part.get("length")

    def encode(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Embeddings of images (uint8) and token ids, by bigcl itself, in float32 on any device."""
        encode = jax.jit(functools.partial(encoded, build(self.task)[1]))
        return {k: np.asarray(v) for k, v in encode(self.arrays, dict(batch)).items()}


def encoded(skeleton: Skeleton, arrays: Arrays, batch: Batch) -> Arrays:
    """Embeddings, by products that are float32 on accelerators too, whose default is bfloat16 (TPU) or TF32 (GPU)."""
    with jax.default_matmul_precision("highest"):
        return skeleton.merge(arrays, {}).encode(batch)


class Inexpressible(ConfigError):
    """A model that the target has no form for; the message names the option that stands in the way."""


def build(task: Part) -> Any:
    """The task without numbers, its skeleton, the shapes of its parameters."""
    vocab = max((t.get("vocab") or 0 for t in task["towers"].values() if isinstance(t, Mapping)), default=0)
    return outline(functools.partial(registry.build, "task", task, batch_size=2, vocab=vocab or None))


def complete(task: Part, vocab: int | None = None) -> dict[str, Any]:
    """A two-tower task with every default filled in and the sizes of its towers as numbers."""
    registry.check("task", task, "task")
    if task["kind"] != "two_tower":
        raise Inexpressible(f"task.kind: {task['kind']!r}; only two_tower leaves and arrives")
    resolved = registry.resolve_nested(dict(task), Annotated[Part, "task"], "task")
    if resolved["losses"] is None:
        resolved["losses"] = [{"kind": "infonce", "of": list(resolved["towers"])[:2]}]
    text = resolved["towers"].get("text")
    if isinstance(text, dict) and vocab and not text.get("vocab"):
        text["vocab"] = vocab
    _, _, shapes = build(resolved)
    for name, part in resolved["towers"].items():
        if isinstance(part, dict) and f"towers/{name}/stack/blocks/attention/qkv" in shapes:
            part.update(sizes(part, {k: v.shape for k, v in shapes.items()}, f"towers/{name}"))
        elif isinstance(part, dict) and part["kind"] == "resnet":
            part.update(resnet_sizes({k: v.shape for k, v in shapes.items()}, f"towers/{name}"))
    return resolved


def sizes(part: Part, shapes: Mapping[str, tuple[int, ...]], path: str) -> dict[str, Any]:
    """Width, depth, heads and MLP width of a transformer from its arrays, and the patch from the variant."""
    depth, width, _, heads, _ = shapes[f"{path}/stack/blocks/attention/qkv"]
    found = {"width": width, "depth": depth, "heads": heads, "variant": None}
    found["mlp_width"] = shapes[f"{path}/stack/blocks/mlp/up/kernel"][-1]
    if part.get("patch") is None and "/" in (part.get("variant") or ""):
        found["patch"] = int(part["variant"].partition("/")[2])
    return found


def resnet_sizes(shapes: Mapping[str, tuple[int, ...]], path: str) -> dict[str, Any]:
    """Width, heads and blocks of each stage of a ResNet from its arrays."""
    stages = [k.removeprefix(f"{path}/stages/").split("/")[:2] for k in shapes if k.startswith(f"{path}/stages/")]
    depths = [len({block for s, block in stages if s == stage}) for stage in sorted({s for s, _ in stages})]
    width, _, heads, _ = shapes[f"{path}/attention/qkv"]
    return {"variant": None, "depths": depths, "width": width // 32, "heads": heads}


def load(workdir: pathlib.Path, step: int | None = None) -> Model:
    """The model of a run, or of what `bigcl.convert` wrote, as it is evaluated: with moving averages where there are
    any."""
    path = workdir / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; --workdir is the folder that was given to bigcl.train")
    config = read_config(path)
    arrays, _, step = load_arrays(workdir / "checkpoints", step)
    embed = arrays.get("towers/text/embed")
    task, wanted = blank(config["task"], None if embed is None else len(embed))
    differences = [
        k for k in {**wanted, **arrays} if k not in wanted or k not in arrays or arrays[k].shape != wanted[k]
    ]
    if differences:
        raise ConfigError(f"{workdir}: checkpoint and config.json do not fit: {', '.join(differences)}")
    task, left = without_training(task)
    if left:
        print(f"{workdir}: for training alone, and left out: {', '.join(left)}")
    task, changed = computed_plainly(task)
    if changed:
        print(f"{workdir}: computed as usual, for the targets have nothing like it: {', '.join(changed)}")
    arrays = {k: arrays[k] for k in build(task)[2]}
    image, transforms, texts = task["towers"].get("image"), for_pictures(config), for_texts(config)
    task, arrays = cut_to_texts(task, arrays, texts)
    preprocessing = Preprocessing.of(transforms, image) if isinstance(image, dict) and "mean" in image else None
    tokenizer = own_tokenizer(workdir, config.get("tokenizer"))
    if tokenizer is not None and (behind := carry(tokenizer, texts)):
        print(f"{workdir}: no tokenizer holds these transforms, so they stay behind: {', '.join(map(str, behind))}")
    card = {"config": config, "step": step, "workdir": workdir, "rows": workdir / "metrics.jsonl"}
    return Model(task, arrays, tokenizer, preprocessing, card)


def without_training(task: Part) -> tuple[dict[str, Any], list[str]]:
    """A complete task without heads and teacher, which no embedding needs, and without the losses and scales that are
    theirs alone; and what was left out."""
    outputs = {*task["heads"], *(["teacher"] if task["teacher"] is not None else [])}

    def trains_alone(loss: Part) -> bool:
        names = (*loss["of"], *(loss.get("with") or {}).values())
        return any("/" in name and name.partition("/")[0] in outputs for name in names)

    losses = [loss for loss in task["losses"] if not trains_alone(loss)]
    own = {loss.get("scale") for loss in task["losses"] if loss not in losses}
    alone = own - {loss.get("scale") for loss in losses}
    left = [f"task.heads.{name}" for name in task["heads"]]
    left += ["task.teacher"] if task["teacher"] is not None else []
    left += [f"task.losses[{i}] ({loss['kind']})" for i, loss in enumerate(task["losses"]) if loss not in losses]
    left += [f"task.scales.{name}" for name in task["scales"] if name in alone]
    scales = {name: start for name, start in task["scales"].items() if name not in alone}
    return {**task, "heads": {}, "teacher": None, "losses": losses, "scales": scales}, left


def computed_plainly(task: Part) -> tuple[dict[str, Any], list[str]]:
    """A task whose towers compute by no experiment, such as products in eight bits; and which there were."""
    towers, found = dict(task["towers"]), []
    for name, part in towers.items():
        used = [k for k in ("matmul", "attention") if isinstance(part, dict) and part.get(k, "plain") != "plain"]
        if used:
            towers[name] = {**part, **dict.fromkeys(used, "plain")}
        found += [f"task.towers.{name}.{k} = {part[k]!r}" for k in used]
    return {**task, "towers": towers}, found


def cut_to_texts(
    task: dict[str, Any], arrays: dict[str, np.ndarray], parts: Sequence[Part]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Task and arrays with a text tower of the length to which these transforms pad texts, where more padding would
    change the embedding: the same function without the positions that no text reaches. Says so."""
    towers, text = task["towers"], task["towers"].get("text")
    length = next((part["length"] for part in parts if part["kind"] == "tokenize"), None)
    own = isinstance(text, dict) and text["kind"] == "text" and "text" not in towers.values()
    if length is None or not own or length >= text["length"]:
        return task, arrays
    masked = text["pad_id"] is not None and text["pool"] not in ("last", "coca")
    if masked or ends_before_padding(text):
        return task, arrays
    print(f"task.towers.text.length: {length} of {text['length']} tokens leave, as the run pads its texts")
    path = "towers/text/position"
    kept = {path: arrays[path][: len(arrays[path]) - text["length"] + length]} if path in arrays else {}
    return {**task, "towers": {**towers, "text": {**text, "length": length}}}, {**arrays, **kept}


def ends_before_padding(text: Part) -> bool:
    """Whether what a text tower pools does not see what follows the text."""
    return text["causal"] and text["pool"] in ("eot", "first")


ORIGIN = {"from": schema.WORD, "path": schema.WORD, "preset": schema.WORD, "image_size": schema.PIXELS}
"""How `bigcl.convert` was asked for a model: `path` without the folder it is in, `image_size` where it resized."""


def read_config(path: pathlib.Path) -> dict[str, Any]:
    """The `config.json` of a run, or of what `bigcl.convert` wrote. Raises BadFile."""
    config = schema.read(
        path, {"task": {}, "evals": schema.Each({}), "data": {}, "tokenizer": schema.Maybe({}), "origin": ORIGIN}
    )
    if "task" not in config:
        raise files.BadFile(f"{path}: no section task; it is not the config.json of a run or of bigcl.convert")
    return config


def own_tokenizer(workdir: pathlib.Path, part: Part | None) -> TokenizersJSON | None:
    """The tokenizer of a run as a tokenizer.json, with what is done to a text first; None, and a message, if there is
    none that can be one."""
    path = workdir / FILE
    if not path.exists() and not path.with_suffix(".model").exists():
        if part is not None:
            print(f"{workdir}: no {FILE}, so the tokenizer ({part['kind']}) stays behind: texts are yours to tokenize")
        return None
    tokenizer = saved_tokenizer(workdir, part or {"kind": "tokenizers_json"})
    if isinstance(tokenizer, SentencePiece):
        try:
            tokenizer = sentencepiece.as_file(tokenizer)
        except ConfigError as error:
            print(f"{workdir}: the tokenizer stays behind, and texts are yours to tokenize: {error}")
            return None
    assert isinstance(tokenizer, TokenizersJSON)
    if tokenizer.clean:
        clean_within(tokenizer, tokenizer.clean)
    return tokenizer


def clean_within(tokenizer: TokenizersJSON, how: str) -> None:
    """Gives the tokenizer's file what `clean_text` (and open_clip) does to a text before it, but for the repair of
    broken Unicode and HTML, which it cannot hold."""
    steps: list[Any] = [] if how == "whitespace" else [hf.normalizers.Lowercase()]
    if how == "canonicalize":
        steps += [hf.normalizers.Replace("_", " "), hf.normalizers.Replace(hf.Regex("[!-/:-@\\[-`{-~]"), "")]
    put_first(tokenizer, [*steps, hf.normalizers.Replace(hf.Regex(r"\s+"), " "), hf.normalizers.Strip()])


def carry(tokenizer: TokenizersJSON, parts: Sequence[Part]) -> list[Part]:
    """Gives the tokenizer's file what transforms do to a text before it. Returns those that it cannot hold: what is
    random, made of other fields of the data, or comes after the text."""
    left: list[Part] = []
    for part in reversed(parts):  # each goes in front of those after it
        if part["kind"] == "clean_text":
            clean_within(tokenizer, option(part, "mode"))
        elif part["kind"] == "format_text" and (before := words_before(part)):
            put_first(tokenizer, [hf.normalizers.Prepend(before)])
        elif part["kind"] not in ("tokenize", "choose_text"):  # of which a text alone is the choice
            left.insert(0, part)
    return left


def words_before(part: Part) -> str:
    """What `format_text` writes before a text; nothing where it writes more than that."""
    pieces = list(string.Formatter().parse(part["template"]))
    fields = [field for _, *field in pieces if field[0] is not None]
    alone = fields == [[option(part, "out"), "", None]] and pieces[-1][1] is not None
    return "".join(text for text, *_ in pieces) if alone else ""


def put_first(tokenizer: TokenizersJSON, steps: Sequence[Any]) -> None:
    """Normalizers in front of those that a tokenizer has."""
    old = tokenizer.model.normalizer
    tokenizer.model.normalizer = hf.normalizers.Sequence([*steps] if old is None else [*steps, old])


def load_arrays(folder: pathlib.Path, step: int | None) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], int]:
    """Parameters of a checkpoint on the host, each replaced by its moving average where there is one; the other arrays
    of its task; and the step."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not there; --workdir is the folder that was given to bigcl.train")
    checkpoints = Checkpoints(folder, read_only=True)
    step = checkpoints.available(step)
    path = folder.absolute() / str(step) / "default"
    reader = ocp.PyTreeCheckpointer()
    groups = ("params/", "ema/", "extra/")
    with checkpoints.reading(step):
        wanted = {k: 0 for k in reader.metadata(path).item_metadata.tree if k.startswith(groups)}
        as_numpy = {k: ocp.RestoreArgs(restore_type=np.ndarray) for k in wanted}
        values = reader.restore(path, ocp.args.PyTreeRestore(wanted, restore_args=as_numpy, partial_restore=True))
    checkpoints.close()
    params, average, extra = (
        {k.removeprefix(group): np.asarray(v) for k, v in values.items() if k.startswith(group)} for group in groups
    )
    return {**params, **average}, extra, step


def save(model: Model, folder: pathlib.Path, origin: Mapping[str, Any] | None = None) -> None:
    """Writes a folder for `checkpoint.init_from` (its `checkpoints`) and for `bigcl.export`. origin: the options of
    `bigcl.convert` that the model comes from, as in ORIGIN."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(folder / "checkpoints")
    if checkpoints.latest() is not None:
        checkpoints.close()
        raise FileExistsError(f"--out: {folder} already holds checkpoints; choose another folder")
    arrays = {f"params/{k}": v for k, v in model.arrays.items()}
    checkpoints.manager.save(0, args=ocp.args.StandardSave(arrays))
    checkpoints.close()
    config: dict[str, Any] = {"task": model.task}
    if origin is not None:
        config["origin"] = dict(origin)
    if model.tokenizer is not None:
        model.tokenizer.save(folder / FILE)
        clean = {"clean": model.tokenizer.clean} if model.tokenizer.clean else {}
        config["tokenizer"] = {"kind": "tokenizers_json", "path": str(folder / FILE), **clean}
    if model.preprocessing is not None:
        config["data"] = {"transforms": model.preprocessing.transforms()}
    files.write_json(config, folder / "config.json")


def blank(task: Part, vocab: int | None = None) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """A task with its defaults filled in, and the shapes of its parameters. vocab: as for `complete`.

    Raises ConfigError if there can be no such task.
    """
    try:
        resolved = complete(task, vocab)
        return resolved, {k: v.shape for k, v in build(resolved)[2].items()}
    except (TypeError, KeyError, ValueError, ArithmeticError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"task: no model has these sizes together: {error}") from error


def initial(task: Part, path: str) -> np.ndarray:
    """What a fresh task starts a parameter with, where an outside model lacks it (the temperature of a lone tower)."""
    module = registry.build("task", {**task, "towers": {}}, batch_size=2, rngs=nnx.Rngs(0))
    return np.asarray(getattr(module, path)[...])


def expect_one_scale(task: Part, target: str) -> None:
    """Raises Inexpressible for embeddings that are not of unit length, and for logits of image and text that are not
    the task's own temperature times cosines."""
    if not task["normalize"]:
        raise Inexpressible(f"task.normalize = False: {target} has embeddings of unit length only")
    if target == "timm" or not {"image", "text"} <= set(task["towers"]):
        return
    if task["scales"]:
        raise Inexpressible(f"task.scales = {task['scales']}: {target} has one temperature only")
    for i, loss in enumerate(task["losses"]):
        if loss.get("scale") is not None and {"image", "text"} <= set(loss["of"]):
            raise Inexpressible(
                f"task.losses[{i}].scale = {loss['scale']!r}: {target} has the learned temperature only"
            )


def expect(part: Part, where: str, target: str, **allowed: Collection[Any]) -> None:
    """Raises Inexpressible for an option of a tower that has a value the target has no form for.

    An option that is not named here must have its default; those that change no output may have any value.
    """
    inert = {"kind", "variant", "dropout", "patch_dropout", "remat", "scan", "mean", "std", "norm_eps"}
    inert |= {"width", "depth", "heads", "mlp_width", "patch", "image_size", "vocab", "length", "embed_dim"}
    defaults = registry.signature(registry.constructor("tower", part["kind"]))
    for key, value in part.items():
        if key in inert:
            continue
        values = allowed.get(key, (defaults[key].default,))
        if value not in values:
            known = " or ".join(map(repr, values))
            raise Inexpressible(f"{where}.{key} = {value!r}: {target} can express {known} only")

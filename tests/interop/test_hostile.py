"""Folders whose files are damaged, misspelt, or made to do harm: every loader says which file and key, and reads
nothing beside the folder."""

import contextlib
import copy
import functools
import json
import pathlib
import shutil
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bigcl.checkpoint import CheckpointError
from bigcl.convert import convert, read_model
from bigcl.data.tokenizers import TokenizersJSON, train_bpe
from bigcl.export import export
from bigcl.interop import bert, big_vision, files, huggingface, open_clip, plain, schema, timm
from bigcl.interop.files import BadFile
from bigcl.interop.model import Model, Preprocessing, blank, load
from bigcl.interop.table import Mismatch, under, write
from bigcl.pretrained import Pretrained
from bigcl.registry import ConfigError

DOCUMENTED = (BadFile, ConfigError, Mismatch, FileNotFoundError)

IMAGE = {"kind": "vit", "image_size": 16, "patch": 8, "width": 32, "depth": 1, "heads": 4, "mlp_width": 48}
TEXT = {"kind": "text", "length": 12, "width": 24, "depth": 1, "heads": 2, "mlp_width": 36}
CLIP = {"image": {"pre_norm": True, "patch_bias": False, "embed_dim": 20}, "text": {"embed_dim": 20}}
CLIP = {name: {**part, "activation": "quick_gelu", "norm_eps": 1e-5} for name, part in CLIP.items()}
MEAN = {"image": {"pool": "mean", "embed_dim": 20}, "text": {"embed_dim": 20}}
SIGLIP = {
    "image": {"pool": "map"},
    "text": {"embed_dim": 32, "causal": False, "pool": "last", "projection_bias": True},
}
NAFLEX = {**SIGLIP, "image": {"pool": "map", "naflex": True}}


def numbers(shapes):
    rng = np.random.default_rng(0)
    return {k: rng.normal(scale=0.2, size=s).astype(np.float32) for k, s in shapes.items()}


def make(towers, loss, tokenizer):
    towers = {"image": {**IMAGE, **towers["image"]}, "text": {**TEXT, "vocab": tokenizer.vocab_size, **towers["text"]}}
    task, shapes = blank({"kind": "two_tower", "towers": towers, "losses": [{"kind": loss, "of": list(towers)}]})
    return Model(task, numbers(shapes), tokenizer, Preprocessing.of([], task["towers"]["image"]))


def write_bert(folder):
    """A BERT as transformers writes it."""
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 36}
    tower = {**TEXT, "vocab": 50, "causal": False, "post_norm": True, "pool": "mean", "pad_id": 0}
    _, shapes = blank({"kind": "two_tower", "towers": {"text": tower}, "losses": []})
    tensors = write(under("", "towers/text/", bert.ENCODER), numbers({k: shapes[k] for k in shapes if "/" in k}))
    tensors["embeddings.token_type_embeddings.weight"] = np.ones((2, 24), np.float32)
    files.write_safetensors(tensors, folder / "model.safetensors")
    files.write_json({"model_type": "bert", "pad_token_id": 0, **sizes}, folder / "config.json")


def write_dinov2(folder):
    """A DINOv2 as transformers writes it, layer scale left out."""
    _, shapes = blank({"kind": "two_tower", "towers": {"image": IMAGE}, "losses": []})
    table = under("", "towers/image/", huggingface.DINOV2)
    tensors = write(table, numbers({k: shapes[k] for k in shapes if "/" in k}))
    files.write_safetensors(tensors, folder / "model.safetensors")
    config = {"model_type": "dinov2", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    files.write_json({**config, "mlp_ratio": 1.5, "image_size": 16, "patch_size": 8}, folder / "config.json")


def write_big_vision(folder):
    """A SigLIP as big_vision writes it."""
    towers = {"image": {**IMAGE, "pool": "map"}, "text": {**TEXT, **SIGLIP["text"], "vocab": 50}}
    _, shapes = blank({"kind": "two_tower", "towers": towers, "losses": [{"kind": "sigmoid", "of": list(towers)}]})
    np.savez(folder / "model.npz", **write(big_vision.TABLE, numbers(shapes)))


FOLDERS = {
    "open_clip": ("open_clip", lambda folder, t: open_clip.export(make(CLIP, "infonce", t), folder)),
    "clip": ("transformers", lambda folder, t: huggingface.export(make(CLIP, "infonce", t), folder)),
    "siglip": ("transformers", lambda folder, t: huggingface.export(make(SIGLIP, "sigmoid", t), folder)),
    "siglip2": ("transformers", lambda folder, t: huggingface.export(make(NAFLEX, "sigmoid", t), folder)),
    "dual": ("transformers", lambda folder, t: huggingface.export(make(MEAN, "infonce", t), folder)),
    "dinov2": ("transformers", lambda folder, t: write_dinov2(folder)),
    "bert": ("transformers", lambda folder, t: write_bert(folder)),
    "timm": ("timm", lambda folder, t: timm.export(make(CLIP, "infonce", t), folder)),
    "plain": ("safetensors", lambda folder, t: plain.export(make(SIGLIP, "sigmoid", t), folder)),
    "big_vision": ("big_vision_npz", lambda folder, t: write_big_vision(folder)),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A sound folder of each kind, by name, made when it is asked for."""
    root = tmp_path_factory.mktemp("sound")
    trained = train_bpe(iter(["a cat on a mat", "the dog and the log"]), 300)
    trained.save(str(root / "tokenizer.json"))
    tokenizer = TokenizersJSON(str(root / "tokenizer.json"))

    @functools.cache
    def folder(name):
        (root / name).mkdir()
        FOLDERS[name][1](root / name, tokenizer)
        return root / name

    return folder


OPENED: list[str] | None = None


def note(event, args):
    if OPENED is not None and event == "open" and isinstance(args[0], str):
        OPENED.append(args[0])


sys.addaudithook(note)


@contextlib.contextmanager
def no_json_elsewhere(folder):
    """Only the files of the folder are opened, beside what Python and its packages read of themselves."""
    global OPENED
    OPENED = []
    try:
        yield
        inside = str(folder.resolve())
        opened = [path for path in OPENED if path.endswith((".json", ".safetensors", ".npz", ".secret"))]
        assert all(str(pathlib.Path(path).resolve()).startswith(inside) for path in opened), opened
    finally:
        OPENED = None


def places(value, at=()):
    """The path of everything in a JSON value."""
    yield at
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*at, key))


VALUES = [None, True, False, -1, 0, 1, 2, 7, 10**7, 10**30, 0.5, 1e308, float("nan"), float("inf"), "", "x", "siglip"]
VALUES += ["../../outside/a.secret", "/etc/passwd", "a\0b", "\ud800", [], [0, 0, 0], [1, 2], {}, {"a": 1}, [[]]]


def mutate(draw, record):
    """A record with a few places replaced, taken out or misspelt."""
    record = copy.deepcopy(record)
    for _ in range(draw(st.integers(1, 3))):
        *parents, last = draw(st.sampled_from([at for at in places(record) if at] or [("new",)]))
        holder = functools.reduce(lambda x, key: x[key], parents, record)
        match draw(st.sampled_from(["replace", "replace", "remove", "misspell"])):
            case "replace":
                holder[last] = copy.deepcopy(draw(st.sampled_from(VALUES)))
            case "misspell" if isinstance(last, str) and len(last) > 4 and last in holder:
                holder[last[:2] + last[3:]] = holder.pop(last)
            case _:
                holder.pop(last, None) if isinstance(holder, dict) else holder.pop(last)
    return record


def attempt(name, folder):
    """Loads it, or says in a documented way why not."""
    with no_json_elsewhere(folder):
        try:
            model = read_model(FOLDERS[name][0], folder)
        except DOCUMENTED as error:
            assert str(folder) in str(error)
            return None
    assert model.arrays
    return model


def fuzz_configs(name, folders, tmp_path_factory, count):
    sound = folders(name)
    records = {p.name: json.loads(p.read_text()) for p in sound.glob("*.json")}

    @settings(max_examples=count, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def run(data):
        folder = tmp_path_factory.mktemp("hostile")
        shutil.copytree(sound, folder, dirs_exist_ok=True)
        file = data.draw(st.sampled_from(sorted(records)))
        (folder / file).write_text(json.dumps(mutate(data.draw, records[file])))
        attempt(name, folder)
        shutil.rmtree(folder)

    run()


CONFIGURED = [name for name in FOLDERS if name != "big_vision"]


@pytest.mark.parametrize("name", CONFIGURED)
def test_any_config_is_read_or_refused(name, folders, tmp_path_factory):
    fuzz_configs(name, folders, tmp_path_factory, 6)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGURED)
def test_any_config_is_read_or_refused_at_length(name, folders, tmp_path_factory):
    fuzz_configs(name, folders, tmp_path_factory, 40)


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_tokenizer_is_read_or_refused(data, folders):
    """Its library panics, too."""
    sound = folders("clip") / "tokenizer.json"
    hostile = sound.with_name("hostile.json.partial")
    hostile.write_text(json.dumps(mutate(data.draw, files.read_json(sound))))
    with contextlib.suppress(ConfigError):
        assert TokenizersJSON(str(hostile)).vocab_size > 0
    hostile.unlink()


@pytest.mark.parametrize("name", FOLDERS)
def test_any_tensors_are_read_or_refused(name, folders, tmp_path_factory):
    """Tensors that are missing, left over, of another rank or shape, or of whole numbers."""
    sound = folders(name)
    weights = files.find_weights(sound)
    tensors = files.read_tensors(weights)

    @settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def run(data):
        changed = dict(tensors)
        for key in data.draw(st.lists(st.sampled_from(sorted(tensors)), min_size=1, max_size=3, unique=True)):
            value = changed.pop(key)
            match data.draw(st.sampled_from(["gone", "renamed", "scalar", "flat", "wider", "ints", "rank"])):
                case "renamed":
                    changed[f"x{key}"] = value
                case "scalar":
                    changed[key] = np.ones((), np.float32)
                case "flat":
                    changed[key] = value.reshape(-1)
                case "wider":
                    changed[key] = np.concatenate([np.atleast_1d(value)] * 2)
                case "ints":
                    changed[key] = np.ones(value.shape, np.int32)
                case "rank":
                    changed[key] = value[None]
        folder = tmp_path_factory.mktemp("hostile")
        shutil.copytree(sound, folder, dirs_exist_ok=True)
        if weights.suffix == ".npz":
            np.savez(folder / weights.name, **changed)
        else:
            files.write_safetensors(changed, folder / weights.name)
        attempt(name, folder)
        shutil.rmtree(folder)

    run()


@pytest.mark.parametrize("name", FOLDERS)
def test_a_sound_folder_is_read(name, folders):
    assert attempt(name, folders(name)) is not None


@pytest.mark.parametrize("text", ["", "{", "[1]", "\ufeff{}", '{"a": 1', "[" * 100_000, "null", '{"a": ' * 50_000])
@pytest.mark.parametrize("name", CONFIGURED)
def test_a_broken_config_names_the_file(name, text, folders, tmp_path):
    shutil.copytree(folders(name), tmp_path, dirs_exist_ok=True)
    config = "open_clip_config.json" if name == "open_clip" else "config.json"
    (tmp_path / config).write_text(text)
    with pytest.raises(BadFile, match=config):
        read_model(FOLDERS[name][0], tmp_path)


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("text", ["", "[]", '{"model": 3}', '{"version": "1.0", "model": {"type": "BPE"}}'])
def test_a_broken_file_beside_it_is_named(file, text, folders, tmp_path):
    shutil.copytree(folders("clip"), tmp_path, dirs_exist_ok=True)
    (tmp_path / file).write_text(text)
    if file != "tokenizer.json" and text.startswith("{"):
        assert attempt("clip", tmp_path) is not None  # an object that says nothing of what is read
        return
    with pytest.raises((BadFile, ConfigError), match=file):
        read_model("transformers", tmp_path)


@pytest.mark.parametrize(
    "name, file, at, value, message",
    [
        ("open_clip", "open_clip_config.json", "model_cfg.embed_dim", None, "embed_dim = None: expected"),
        ("open_clip", "open_clip_config.json", "model_cfg.vision_cfg.width", -8, "vision_cfg.width = -8: expected"),
        ("open_clip", "open_clip_config.json", "model_cfg.text_cfg.layers", 10**30, "layers = a number of more"),
        ("open_clip", "open_clip_config.json", "model_cfg.text_cfg.width", "24", "text_cfg.width = '24': exp"),
        ("open_clip", "open_clip_config.json", "preprocess_cfg.std", [0, 1, 1], "std = .*: expected a list of th"),
        ("clip", "config.json", "vision_config.patch_size", 0, "vision_config.patch_size = 0: expected a whole number"),
        ("clip", "config.json", "text_config.hidden_act", ["gelu"], "text_config.hidden_act = .*: expected a string"),
        ("clip", "config.json", "text_config", [], r"text_config = \[\]: expected a JSON object"),
        ("siglip", "config.json", "vision_config.num_attention_heads", 5, "width 32 is not a multiple of heads 5"),
        ("siglip", "preprocessor_config.json", "resample", 9, "resample 9; bigcl has"),
        ("timm", "config.json", "architecture", "../../vit", "architecture '../../vit'"),
        ("timm", "config.json", "model_args.global_pool", "x", "global_pool = 'x': expected one of"),
        ("plain", "config.json", "tokenizer", "../tokenizer.json", "tokenizer = .*: expected the name of a fi"),
        ("plain", "config.json", "task.towers.image.depth", 10**9, "image.depth = 1000000000: expected a whole number"),
        ("plain", "config.json", "preprocessing.colour", 1, "preprocessing has .*colour; known"),
    ],
)  # fmt: skip
def test_the_key_is_named(name, file, at, value, message, folders, tmp_path):
    shutil.copytree(folders(name), tmp_path, dirs_exist_ok=True)
    record = files.read_json(tmp_path / file)
    *parents, last = at.split(".")
    functools.reduce(lambda x, key: x[key], parents, record)[last] = value
    files.write_json(record, tmp_path / file)
    with pytest.raises(ValueError, match=message) as error:
        read_model(FOLDERS[name][0], tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_naflex_of_big_vision_is_sent_to_transformers(folders, tmp_path):
    """Its patches are vectors, which say nothing of the patch in pixels."""
    with np.load(folders("big_vision") / "model.npz") as file:
        tensors = dict(file)
    tensors["img/embedding/kernel"] = tensors["img/embedding/kernel"].reshape(-1, 32)
    np.savez(tmp_path / "model.npz", **tensors)
    with pytest.raises(ConfigError, match=r"img/embedding/kernel \(192, 32\): .*NaFlex.* --from transformers"):
        read_model("big_vision_npz", tmp_path / "model.npz")


def test_a_text_tower_has_no_image_size(folders, tmp_path):
    with pytest.raises(ConfigError, match=r"^--image_size: the model has no image tower; leave it out$"):
        convert("transformers", folders("bert"), tmp_path / "out", image_size=32)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name, image_size, options",
    [("clip", None, ""), ("clip", 16, ""), ("clip", 32, " --image_size 32"), ("bert", None, "")],
)
def test_the_card_says_where_converted_weights_come_from(name, image_size, options, folders, tmp_path):
    """By the command, without what its folder says of a machine."""
    convert("transformers", folders(name), tmp_path / "run", image_size=image_size)
    export(tmp_path / "run", "safetensors", tmp_path / "out", verify=False)
    said = (tmp_path / "out" / "README.md").read_text()
    assert f"by `python -m bigcl.convert --from transformers --path {name}{options}`" in said
    assert ("which resized the position embeddings" in said) == bool(options)
    assert str(tmp_path) not in said


@pytest.mark.parametrize(
    "name, file, section, key, wrong",
    [
        ("clip", "config.json", "vision_config", "hidden_size", "hiden_size"),
        ("open_clip", "open_clip_config.json", "model_cfg", "embed_dim", "embeddim"),
        ("open_clip", "open_clip_config.json", "model_cfg", "vision_cfg", "vison_cfg"),
        ("siglip2", "config.json", "vision_config", "num_patches", "num_pathces"),
    ],
)
def test_a_misspelt_key_is_named(name, file, section, key, wrong, folders, tmp_path):
    shutil.copytree(folders(name), tmp_path, dirs_exist_ok=True)
    record = files.read_json(tmp_path / file)
    record[section][wrong] = record[section].pop(key)
    files.write_json(record, tmp_path / file)
    with pytest.raises(ValueError, match=f"{wrong}.*did you mean '{key}'|no section {key}"):
        read_model(FOLDERS[name][0], tmp_path)


@pytest.mark.parametrize(
    "index",
    [
        {},
        {"weight_map": []},
        {"weight_map": {}},
        {"weight_map": {"a": 3}},
        {"weight_map": {"a": ["x.safetensors"]}},
        {"weight_map": {"a": "../../x"}},
        {"weight_map": {"a": "../model.safetensors"}},
        {"weight_map": {"a": "/etc/model.safetensors"}},
        {"weight_map": {"a": ".."}},
        {"weight_map": {"a": "model.safetensors.index.json"}},
        {"weight_map": {"a": "not_there.safetensors"}},
    ],
)
def test_an_index_names_safetensors_beside_it(index, tmp_path):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    with pytest.raises(BadFile, match=r"weight_map|beside it"):
        files.read_tensors(path)


def test_tensors_that_are_empty_or_no_numbers(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((0, 10**9), np.float32))
    with pytest.raises(BadFile, match=r"x \(0, 1000000000\) is empty"):
        files.read_tensors(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", x=np.array(["a"]))
    with pytest.raises(BadFile, match="x holds <U1; expected numbers"):
        files.read_tensors(tmp_path / "b.npz")


def test_damage_in_compressed_arrays(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=np.random.default_rng(0).normal(size=100))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[80:120] = bytes(40)
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(BadFile, match=r"a\.npz: no readable npz"):
        files.read_tensors(tmp_path / "a.npz")


def test_a_run_whose_config_is_damaged(folders, tmp_path):
    convert("transformers", folders("clip"), tmp_path / "run")
    config = tmp_path / "run" / "config.json"
    for text in ('{"task"', "[]", '{"task": 3}', '{"task": {"kind": "two_tower"}}', "{}", '{"task": {}, "evals": []}'):
        config.write_text(text)
        with pytest.raises((*DOCUMENTED, CheckpointError), match=r"config.json|task"):
            Pretrained.open(tmp_path / "run")


def test_a_run_whose_checkpoint_is_damaged(folders, tmp_path):
    convert("transformers", folders("clip"), tmp_path / "run")
    parts = [path for path in (tmp_path / "run" / "checkpoints").rglob("*") if path.is_file() and "d" in path.parts]
    assert parts
    for path in parts:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for opener in (load, Pretrained.open):
        with pytest.raises(CheckpointError, match="is damaged"):
            opener(tmp_path / "run")


def test_what_a_schema_takes():
    assert schema.whole(4).fits(4) and not schema.whole(4).fits(True) and not schema.whole(4).fits(4.0)
    assert schema.number(1).fits(1) and not schema.number(1).fits(float("nan")) and not schema.number(1).fits(0)
    assert schema.nullable(schema.WORD).fits(None) and not schema.WORD.fits(None)
    assert not any(schema.FILE_NAME.fits(name) for name in ("", ".", "..", "a/b", "/a", "a\0", 3))

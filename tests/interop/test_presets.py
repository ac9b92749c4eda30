"""The records of published models are those that their own libraries hold."""

import json
import re

import numpy as np
import pytest

for package in ("torch", "transformers", "open_clip", "timm"):
    pytest.importorskip(package, reason=f"compares with {package}: pip install '.[interop-test]'")

import open_clip  # noqa: E402
import open_clip.pretrained  # noqa: E402
import timm  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from bigcl.convert import convert, read_model  # noqa: E402
from bigcl.data.tokenizers import TokenizersJSON, train_bpe  # noqa: E402
from bigcl.interop import bare, huggingface, processors, schema  # noqa: E402
from bigcl.interop import open_clip as names  # noqa: E402
from bigcl.interop.files import BadFile  # noqa: E402
from bigcl.interop.model import Preprocessing, load  # noqa: E402
from bigcl.interop.presets import BARE, PRESETS  # noqa: E402
from bigcl.registry import ConfigError  # noqa: E402

FAMILIES = (
    (r"RN\d+(x\d+)?|ViT-(B|L|H|g|bigG)-\d+(-(plus-)?\d+)?", "open_clip"),
    (r"coca_ViT-.*", "coca"),
    (r"ViT-.*-SigLIP(-.*)?", "siglip"),
    (r"ViT-.*-SigLIP2(-.*)?", "siglip2"),
    (r"ViT-.*-worldwide", "metaclip2"),
    (r"ViT-.*-worldwide-378", "metaclip2_378"),
)
"""Names in open_clip of the models that bigcl reads."""


def published():
    """Model, tag and preset of all that open_clip has of these."""
    special = {"openai": "openai", "dfn5b": "dfn5b", "laion2b_s32b_b82k": "laion2b_l14"}
    for model, tag in open_clip.list_pretrained():
        family = next((f for pattern, f in FAMILIES if re.fullmatch(pattern, model)), None)
        if family is not None:
            quick = family == "open_clip" and open_clip.pretrained.get_pretrained_cfg(model, tag).get("quick_gelu")
            yield model, tag, special.get(tag, "open_clip_quickgelu" if quick else family)


def test_pictures_as_in_the_records_of_open_clip():
    seen = set()
    for model, tag, family in published():
        record, preset = open_clip.pretrained.get_pretrained_cfg(model, tag), PRESETS[family]
        found = (preset.mode, preset.method, *map(tuple, preset.colours))
        wanted = (record["resize_mode"], record["interpolation"], tuple(record["mean"]), tuple(record["std"]))
        assert found == wanted, (model, tag, family)
        if family == "openai" or preset.activation == "quick_gelu":
            assert record.get("quick_gelu"), (model, tag)
        elif preset.activation == "gelu":
            assert not record.get("quick_gelu"), (model, tag)
        seen.add(family)
    assert seen == set(PRESETS) - {"siglip2_naflex", "dinov2"}


@pytest.mark.parametrize("model", ["ViT-B-32", "RN50", "ViT-B-16-SigLIP", "ViT-B-16-SigLIP2", "coca_ViT-B-32"])
def test_texts_as_in_the_configs_of_open_clip(model):
    config = open_clip.get_model_config(model)["text_cfg"]
    preset = PRESETS[next(f for pattern, f in FAMILIES if re.fullmatch(pattern, model))]
    assert config["context_length"] == preset.length and config["vocab_size"] in preset.vocab
    # open_clip's own tokenizer lowers where nothing else is said
    clean = (config.get("tokenizer_kwargs") or {}).get(
        "clean", "whitespace" if "hf_tokenizer_name" in config else "lower"
    )
    assert clean == preset.clean


@pytest.mark.parametrize(
    ("family", "processor"),
    [("openai", "CLIPImageProcessor"), ("siglip", "SiglipImageProcessor"), ("siglip2_naflex", "Siglip2ImageProcessor")],
)
def test_pictures_as_in_the_defaults_of_transformers(family, processor):
    theirs, preset = getattr(transformers, processor)(), PRESETS[family]
    assert tuple(theirs.image_mean) == preset.colours[0] and tuple(theirs.image_std) == preset.colours[1]
    assert int(theirs.resample) == processors.RESAMPLE[preset.method]
    cropped = bool(getattr(theirs, "do_center_crop", False))
    assert cropped == (preset.mode == "shortest")
    if family == "siglip2_naflex":
        assert theirs.max_num_patches == 256
    record = processors.preprocessing_of({}, {"image_size": 224, "mean": [0] * 3, "std": [1] * 3}, preset)
    assert (record.mode == "shortest", processors.RESAMPLE[record.method]) == (cropped, int(theirs.resample))


def test_pictures_as_in_the_record_of_timm():
    theirs, preset = timm.models.get_pretrained_cfg("vit_base_patch14_dinov2.lvd142m"), PRESETS["dinov2"]
    assert (tuple(theirs.mean), tuple(theirs.std)) == preset.colours
    assert (theirs.interpolation, theirs.crop_mode) == (preset.method, "center") and preset.mode == "shortest"


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("ViT-B-32", "open_clip"),
        ("ViT-L-14-336", "openai"),
        ("ViT-bigG-14", "open_clip"),
        ("ViT-e-14", "open_clip"),
        ("ViT-B-16-plus", "open_clip"),
        ("RN50x4", "openai"),
        ("coca_ViT-B-32", "coca"),
    ],
)
def test_sizes_are_read_off_bare_weights(model, family):
    config = open_clip.get_model_config(model)
    with torch.device("meta"):
        options = {k: v for k, v in config.items() if k != "custom_text"}
        peer = (open_clip.CoCa if family == "coca" else open_clip.CLIP)(**options)
    shapes = {k: tuple(v.shape) for k, v in peer.state_dict().items() if not k.startswith("text_decoder.")}
    quick = PRESETS[family].activation == "quick_gelu"
    found = bare.model_config(shapes, quick_gelu=quick)
    image = names.image_part(found["vision_cfg"], found, shapes)
    text = names.text_part(found["text_cfg"], found)
    assert image == names.image_part(config["vision_cfg"], {**config, "quick_gelu": quick}, shapes)
    assert text == names.text_part(config["text_cfg"], {**config, "quick_gelu": quick})


def tiny(quick_gelu):
    vision = {"image_size": 32, "patch_size": 8, "width": 192, "layers": 2}
    text = {"context_length": 10, "vocab_size": 49_408, "width": 64, "heads": 1, "layers": 2}
    torch.manual_seed(0)
    return open_clip.model.CLIP(embed_dim=20, quick_gelu=quick_gelu, vision_cfg=vision, text_cfg=text).eval()


@pytest.mark.parametrize(("family", "quick"), [("openai", True), ("open_clip", False)])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".jit.pt"])
def test_bare_weights_arrive_with_what_is_published(family, quick, suffix, tmp_path):
    """Pictures and texts as open_clip makes them of its own, and so the same embeddings of raw ones."""
    peer, path = tiny(quick), tmp_path / f"weights{suffix}"
    if suffix == ".jit.pt":  # as OpenAI's files are: traced
        inputs = torch.zeros(1, 3, 32, 32), torch.zeros(1, 10, dtype=torch.long)
        torch.jit.trace(peer, inputs, check_trace=False).save(str(path))
    elif suffix == ".pt":
        torch.save({"state_dict": peer.state_dict()}, path)
    else:
        save_file({k: v.contiguous() for k, v in peer.state_dict().items()}, path)
    convert("open_clip", path, tmp_path / "out", preset=family)
    model = load(tmp_path / "out")
    preprocess = open_clip.image_transform(32, is_train=False)  # open_clip's records are its defaults
    from bigcl.interop.proof import painting

    pictures = [painting(shape, seed) for seed, shape in enumerate([(32, 32), (40, 70), (64, 48)])]
    texts = ["A Cat", "two  dogs &amp; a hat", "x"]
    ids = open_clip.SimpleTokenizer(context_length=10)(texts)
    np.testing.assert_array_equal(model.tokenizer(texts, 10)[[0, 2]], ids.numpy()[[0, 2]])
    with torch.no_grad():
        image = peer.encode_image(torch.stack([preprocess(p) for p in pictures]), normalize=True).numpy()
        text = peer.encode_text(ids, normalize=True).numpy()
    ours = model.encode({**model.preprocessing(pictures), "text": ids.numpy().astype(np.int32)})
    np.testing.assert_allclose(ours["image"], image, atol=2e-3)  # resized to within a level of 255
    np.testing.assert_allclose(ours["image"][0], image[0], atol=1e-5)
    np.testing.assert_allclose(ours["text"], text, atol=1e-5)


def test_bare_weights_of_no_known_family(tmp_path):
    save_file({"x": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(
        BadFile, match=r"no open_clip_config.json beside the weights; name their family by --preset open"
    ):
        read_model("open_clip", tmp_path)
    with pytest.raises(BadFile, match=f"'siglip' is no family without a config; known are --preset {BARE[0]}"):
        read_model("open_clip", tmp_path, "siglip")
    with pytest.raises(ConfigError, match="--preset: unknown 'opnai'; did you mean 'openai'"):
        read_model("open_clip", tmp_path, "opnai")
    with pytest.raises(BadFile, match=r"no tensor 'ln_final\.weight'"):
        read_model("open_clip", tmp_path, "openai")
    with pytest.raises(ConfigError, match="--preset: with --from timm the files say what they are"):
        read_model("timm", tmp_path, "openai")


def test_configs_of_the_libraries_are_as_the_schemas_say():
    """All of open_clip's, and the defaults of transformers' classes, written out or not."""
    for model in open_clip.list_models():
        config = {k: v for k, v in open_clip.get_model_config(model).items() if k != "embed_dim" or v}
        schema.check(config, names.MODEL_SCHEMA, model)
    for kind in ("CLIP", "Siglip", "Siglip2", "Dinov2", "Dinov2WithRegisters", "Bert", "Roberta", "XLMRoberta"):
        config = getattr(transformers, f"{kind}Config")()
        schema.check(config.to_dict(), huggingface.MODEL_SCHEMA, kind)
        schema.check({"model_type": config.model_type, **config.to_diff_dict()}, huggingface.MODEL_SCHEMA, kind)
    for kind in ("CLIP", "Siglip", "Siglip2", "Bit"):
        record = json.loads(getattr(transformers, f"{kind}ImageProcessor")().to_json_string())
        schema.check(record, processors.PICTURES_SCHEMA, kind)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_folder_without_a_record_is_seen_as_published(kind, tmp_path, capsys):
    text = {"vocab_size": 50, "max_position_embeddings": 10, "hidden_size": 24, "num_attention_heads": 2}
    text |= {"num_hidden_layers": 1, "intermediate_size": 36}
    vision = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
    vision |= {"image_size": 16, "patch_size": 8}
    if kind == "clip":
        config = transformers.CLIPConfig(vision_config=vision, text_config={**text, "eos_token_id": 49})
        peer = transformers.CLIPModel(config)
    else:
        config = transformers.SiglipConfig(vision_config=vision, text_config={**text, "projection_size": 32})
        peer = transformers.SiglipModel(config)
    peer.save_pretrained(tmp_path)
    model = read_model("transformers", tmp_path)
    preset = PRESETS[huggingface.PUBLISHED[kind]]
    assert model.preprocessing == preset.preprocessing(16)
    assert tuple(model.tower("image")["mean"]) == preset.colours[0]
    assert f"pictures as published: {preset.mode} by {preset.method}" in capsys.readouterr().out


def test_what_a_processor_does_not_do(tmp_path):
    """Normalise: then neither does the tower; scale or resize otherwise: there is no tower for that."""
    record, preset = (
        {"do_normalize": False, "image_mean": [0.1] * 3, "rescale_factor": 0.00392156862745098},
        PRESETS["openai"],
    )
    colours = processors.colours(record, preset)
    peer = transformers.CLIPImageProcessor(**record, size={"height": 8, "width": 8}, do_center_crop=False)
    x = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    theirs = peer(Image.fromarray(x), return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    np.testing.assert_allclose((x / 255 - colours["mean"]) / colours["std"], theirs, atol=1e-6)
    for key, value in [("do_resize", False), ("do_rescale", False), ("rescale_factor", 1 / 127.5)]:
        with pytest.raises(ConfigError, match=f"{key} = {value}; bigcl's"):
            processors.colours({key: value}, preset)


@pytest.mark.parametrize(
    "steps, expected",
    [
        ([{"kind": "resize", "size": [16, 16]}, {"kind": "center_crop", "size": 16}], ("squash", None)),
        ([{"kind": "resize", "size": 16}, {"kind": "center_crop", "size": 16}], ("shortest", None)),
        ([{"kind": "resize", "size": 18}, {"kind": "center_crop", "size": 16}], ("shortest", 18)),
        ([{"kind": "resize", "size": [18, 18]}, {"kind": "center_crop", "size": 16}], ("squash", 18)),
        ([{"kind": "resize", "size": [16, 20]}, {"kind": "center_crop", "size": 16}], None),
        ([{"kind": "resize", "size": 14}, {"kind": "center_crop", "size": 16}], None),
    ],
)
def test_what_is_resized_and_cropped(steps, expected):
    tower = {"image_size": 16, "mean": [0.5] * 3, "std": [0.5] * 3}
    if expected is None:
        with pytest.raises(ConfigError, match="before a crop of 16"):
            Preprocessing.of(steps, tower)
        return
    preprocessing = Preprocessing.of(steps, tower)
    assert (preprocessing.mode, preprocessing.edge) == expected
    assert Preprocessing.of(preprocessing.transforms(), tower) == preprocessing
    from bigcl import registry
    from bigcl.interop.proof import painting

    picture, rng = painting((40, 24), 0), np.random.default_rng(0)
    example = {"image": np.asarray(picture)}
    for part in steps:
        example = registry.build("transform", {**part, **({"exact": True} if part["kind"] == "resize" else {})})(
            example, rng
        )
    np.testing.assert_array_equal(preprocessing([picture])["image"][0], example["image"])


def test_what_is_cropped_at_random_is_the_middle():
    tower = {"image_size": 16, "mean": [0.5] * 3, "std": [0.5] * 3}
    resize = {"kind": "resize", "size": 18, "method": "bilinear"}
    found = Preprocessing.of([resize, {"kind": "random_crop", "size": 16}], tower)
    assert found == Preprocessing.of([resize, {"kind": "center_crop", "size": 16}], tower) and found.edge == 18
    part = {
        "kind": "random_resized_crop",
        "size": 16,
        "method": "bilinear",
    }  # of which size it was before counts for nothing
    assert Preprocessing.of([resize, part], tower) == Preprocessing(16, "shortest", "bilinear")
    assert (found.at(32).edge, Preprocessing(16).at(32).edge) == (36, None)


@pytest.mark.parametrize("size, seen", [(224, (224, 256)), (518, (518, 592)), (32, (32, 36))])
def test_a_processor_that_crops_what_is_larger(size, seen, capsys):
    """DINOv2's, also beside a tower of another size: the same share of the picture."""
    record = {"do_center_crop": True, "crop_size": {"height": 224, "width": 224}, "size": {"shortest_edge": 256}}
    tower = {"image_size": size, "mean": [0.5] * 3, "std": [0.5] * 3}
    found = processors.preprocessing_of(record, tower, PRESETS["dinov2"])
    assert (found.mode, found.size, found.edge) == ("shortest", *seen)
    assert ("crop_size is 224" in capsys.readouterr().out) == (size != 224)


@pytest.mark.parametrize("lowers", [True, False])
def test_a_siglip2_reads_small_letters(lowers, tmp_path):
    """Whether or not its file of the tokenizer says so, as transformers does."""
    trained = train_bpe(iter(["the cat sat", "on the mat"] * 5), 300)
    if not lowers:
        from tokenizers import normalizers

        trained.normalizer = normalizers.NFKC()
    trained.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GemmaTokenizer"}')
    tokenizer = processors.read_tokenizer(tmp_path)
    np.testing.assert_array_equal(tokenizer("The CAT sat", 12), tokenizer("the cat sat", 12))
    if not lowers:
        plain = TokenizersJSON(str(tmp_path / "tokenizer.json"))
        assert (plain("The CAT sat", 12) != plain("the cat sat", 12)).any()

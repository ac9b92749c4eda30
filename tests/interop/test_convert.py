"""Models of other libraries with random weights arrive and leave: same embeddings here, same tensors there again."""

import contextlib
import json

import numpy as np
import pytest

for package in ("torch", "transformers", "open_clip", "timm"):
    pytest.importorskip(package, reason=f"compares with {package}: pip install '.[interop-test]'")

import open_clip  # noqa: E402
import open_clip.convert  # noqa: E402
import timm  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from bigcl.convert import convert  # noqa: E402
from bigcl.data.tokenizers import train_bpe  # noqa: E402
from bigcl.interop import big_vision, files, huggingface, processors  # noqa: E402
from bigcl.interop import open_clip as names  # noqa: E402
from bigcl.interop import timm as trunks  # noqa: E402
from bigcl.interop.model import Inexpressible, Model, blank, clean_within, load  # noqa: E402
from bigcl.interop.table import Mismatch, read, write  # noqa: E402
from tests.interop import reference  # noqa: E402

TOLERANCE = 1e-5  # of embeddings of length 1; found: 4e-7


def randomize(module):
    """Nothing at its initial value, so that nothing can be left out unseen."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.05 if weight.ndim > 1 else 0.2)
    return module.eval()


def images(size, n=3):
    return np.random.default_rng(0).normal(size=(n, size, size, 3)).astype(np.float32)


def torch_images(x):
    return torch.from_numpy(x).permute(0, 3, 1, 2)


def texts(length, vocab, n=3):
    """Ids that end with the largest, at different places."""
    ids = np.random.default_rng(0).integers(3, vocab - 1, (n, length), dtype=np.int32)
    for row, end in zip(ids, (length - 1, 3, 6), strict=True):
        row[end], row[end + 1 :] = vocab - 1, 0
    return ids


def unit(x):
    return torch.nn.functional.normalize(x, dim=-1).detach().numpy()


def close(model: Model, image, ids, theirs):
    batch = {"image": image} if ids is None else {"image": image, "text": ids}
    ours = model.encode(batch)
    assert set(ours) == set(theirs)
    for name, expected in theirs.items():
        np.testing.assert_allclose(ours[name], expected, atol=TOLERANCE, rtol=0, err_msg=name)


def arrive(source, folder, out):
    """The converted model, read back from what `convert` wrote."""
    convert(source, folder, out)
    return load(out)


def leave(export, model, folder):
    """The tensors of an exported folder."""
    folder.mkdir()
    export(model, folder)
    return files.read_tensors(files.find_weights(folder))


def same_tensors(left, state):
    assert set(left) == set(state)
    for name, tensor in state.items():
        np.testing.assert_array_equal(left[name], tensor.float().numpy(), err_msg=name)


CLIP_TEXT = {"vocab_size": 50, "max_position_embeddings": 10, "hidden_size": 24, "num_attention_heads": 2}
CLIP_TEXT |= {"num_hidden_layers": 2, "intermediate_size": 36, "bos_token_id": 1, "eos_token_id": 49}
VISION = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}


@pytest.mark.parametrize("activation, size, patch", [("quick_gelu", 24, 8), ("gelu", 16, 4), ("quick_gelu", 30, 8)])
@pytest.mark.parametrize("eos", [49, 17])
def test_transformers_clip(activation, size, patch, eos, tmp_path):
    vision = {**VISION, "image_size": size, "patch_size": patch, "hidden_act": activation}
    config = transformers.CLIPConfig(
        vision_config=vision,
        text_config={**CLIP_TEXT, "hidden_act": activation, "eos_token_id": eos},
        projection_dim=20,
    )
    peer = randomize(transformers.CLIPModel(config))
    peer.save_pretrained(tmp_path / "peer")
    model = arrive("transformers", tmp_path / "peer", tmp_path / "out")
    x, ids = images(size), texts(10, 50)
    ids[:, 5] = 17  # an end only where it is the one that is looked for
    result = peer(input_ids=torch.from_numpy(ids).long(), pixel_values=torch_images(x))
    close(model, x, ids, {"image": unit(result.image_embeds), "text": unit(result.text_embeds)})
    same_tensors(leave(huggingface.export, model, tmp_path / "back"), peer.state_dict())
    saved = json.loads((tmp_path / "back" / "config.json").read_text())
    again = transformers.CLIPModel.from_pretrained(tmp_path / "back")
    assert saved["model_type"] == "clip" and again.config.vision_config.hidden_act == activation


@pytest.mark.parametrize("size, patch", [(24, 8), (27, 6)])
def test_transformers_siglip(size, patch, tmp_path):
    """The second size is no multiple of the patch, as 384 is none of 14."""
    text = {k: v for k, v in CLIP_TEXT.items() if not k.endswith("_id")} | {"projection_size": 32}
    vision = {**VISION, "image_size": size, "patch_size": patch}
    peer = randomize(transformers.SiglipModel(transformers.SiglipConfig(vision_config=vision, text_config=text)))
    peer.save_pretrained(tmp_path / "peer")
    model = arrive("transformers", tmp_path / "peer", tmp_path / "out")
    x, ids = images(size), texts(10, 50)
    result = peer(input_ids=torch.from_numpy(ids).long(), pixel_values=torch_images(x))
    close(model, x, ids, {"image": unit(result.image_embeds), "text": unit(result.text_embeds)})
    logits = np.exp(model.arrays["log_scale"]) * unit(result.image_embeds) @ unit(result.text_embeds).T
    np.testing.assert_allclose(logits + model.arrays["bias"], result.logits_per_image.detach(), atol=1e-4)
    same_tensors(leave(huggingface.export, model, tmp_path / "back"), peer.state_dict())


@pytest.mark.parametrize("grids", [[(4, 4)] * 3, [(2, 7), (5, 3), (1, 9)]])
def test_transformers_naflex(grids, tmp_path):
    """Pictures of the shape whose positions are learned, and of others."""
    text = {k: v for k, v in CLIP_TEXT.items() if not k.endswith("_id")} | {"projection_size": 32}
    vision = {**VISION, "patch_size": 4, "num_patches": 16}
    peer = randomize(transformers.Siglip2Model(transformers.Siglip2Config(vision_config=vision, text_config=text)))
    peer.save_pretrained(tmp_path / "peer")
    model = arrive("transformers", tmp_path / "peer", tmp_path / "out")
    assert model.tower("image")["naflex"] and model.preprocessing.tokens == 16
    mask = np.array([np.arange(16) < rows * columns for rows, columns in grids])
    patches = np.random.default_rng(0).normal(size=(3, 16, 48)).astype(np.float32) * mask[..., None]
    ids, shape = texts(10, 50), np.array(grids, np.int32)
    result = peer(
        input_ids=torch.from_numpy(ids).long(),
        pixel_values=torch.from_numpy(patches),
        pixel_attention_mask=torch.from_numpy(mask).int(),
        spatial_shapes=torch.from_numpy(shape).long(),
    )
    batch = {"image": patches, "image_mask": mask, "image_shape": shape, "text": ids}
    ours = model.encode(batch)
    np.testing.assert_allclose(ours["image"], unit(result.image_embeds), atol=TOLERANCE)
    np.testing.assert_allclose(ours["text"], unit(result.text_embeds), atol=TOLERANCE)
    logits = np.exp(model.arrays["log_scale"]) * ours["image"] @ ours["text"].T + model.arrays["bias"]
    np.testing.assert_allclose(logits, result.logits_per_image.detach(), atol=1e-4)
    same_tensors(leave(huggingface.export, model, tmp_path / "back"), peer.state_dict())


@pytest.mark.parametrize("registers", [0, 4])
def test_transformers_dinov2(registers, tmp_path):
    sizes = {k: v for k, v in VISION.items() if k != "intermediate_size"} | {"mlp_ratio": 2}
    common = {**sizes, "image_size": 28, "patch_size": 14}
    if registers:
        config = transformers.Dinov2WithRegistersConfig(num_register_tokens=registers, **common)
        peer = transformers.Dinov2WithRegistersModel(config)
    else:
        peer = transformers.Dinov2Model(transformers.Dinov2Config(**common))
    peer = randomize(peer)
    peer.save_pretrained(tmp_path / "peer")
    model = arrive("transformers", tmp_path / "peer", tmp_path / "out")
    x = images(28)
    close(model, x, None, {"image": unit(peer(torch_images(x)).pooler_output)})


@pytest.mark.parametrize("kind, pool", [("bert", "mean"), ("bert", "first"), ("roberta", "mean")])
def test_bert(kind, pool, tmp_path):
    """Pooled as sentence-transformers does, over the tokens that are no padding."""
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 36}
    sizes |= {"vocab_size": 50, "max_position_embeddings": 20, "type_vocab_size": 1 if kind == "roberta" else 2}
    if kind == "bert":
        peer = transformers.BertModel(transformers.BertConfig(pad_token_id=0, **sizes))
    else:
        peer = transformers.RobertaModel(transformers.RobertaConfig(pad_token_id=1, **sizes))
    peer = randomize(peer)
    peer.save_pretrained(tmp_path / "peer")
    (tmp_path / "peer" / "1_Pooling").mkdir()
    modes = {"pooling_mode_mean_tokens": pool == "mean", "pooling_mode_cls_token": pool == "first"}
    (tmp_path / "peer" / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    model = arrive("transformers", tmp_path / "peer", tmp_path / "out")
    pad = model.tower("text")["pad_id"]
    assert pad == peer.config.pad_token_id
    ids = texts(10, 50)
    ids[ids == 0] = pad
    real = torch.from_numpy(ids != pad)
    tokens = peer(input_ids=torch.from_numpy(ids).long(), attention_mask=real.long()).last_hidden_state
    pooled = tokens[:, 0]
    if pool == "mean":
        pooled = (tokens * real[..., None]).sum(1) / real.sum(1, keepdim=True)
    np.testing.assert_allclose(model.encode({"text": ids})["text"], unit(pooled), atol=TOLERANCE)


def tokenizer_folder(folder):
    """A tokenizer as transformers keeps it, whose file does not say how to pad."""
    trained = train_bpe(iter(["the cat sat", "on the mat"] * 5), 300)
    trained.no_padding()
    trained.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": {"content": "<bos>"}}))


def test_the_tokenizer_comes_along(tmp_path):
    """With the padding and the cleaning of texts that its library gives it."""
    tokenizer_folder(tmp_path)
    tokenizer = processors.read_tokenizer(tmp_path)
    assert tokenizer("the cat", 30)[-1] == tokenizer.pad_id == 1
    clean_within(tokenizer, "canonicalize")
    peer = open_clip.tokenizer.get_clean_fn("canonicalize")
    for text in ("The  Cat, sat!", " on\tthe (mat) ", "it's a [cat]_{mat}~"):
        cleaned = tokenizer.model.encode(peer(text)).ids
        assert tokenizer.model.encode(text).ids == cleaned


def open_clip_folder(folder, config, peer):
    folder.mkdir()
    save_file({k: v.contiguous() for k, v in peer.state_dict().items()}, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))


@pytest.mark.parametrize("pool", ["tok", "avg"])
@pytest.mark.parametrize(
    "quick_gelu, vision, text",
    [
        (True, {}, {}),
        (False, {"no_ln_pre": True, "act_kwargs": {"approximate": "tanh"}}, {"proj_bias": True}),
        (False, {"norm_kwargs": {"eps": 1e-3}}, {"no_causal_mask": True, "pool_type": "last"}),
        (True, {}, {"pool_type": "eos", "eos_id": 17}),
    ],
)
def test_open_clip(pool, quick_gelu, vision, text, tmp_path):
    vision_cfg = {"image_size": 24, "patch_size": 8, "width": 32, "layers": 3, "head_width": 8, "mlp_ratio": 1.5}
    text_cfg = {"context_length": 10, "vocab_size": 50, "width": 24, "heads": 2, "layers": 2}
    config = {"embed_dim": 20, "quick_gelu": quick_gelu}
    config |= {"vision_cfg": {**vision_cfg, "pool_type": pool, **vision}, "text_cfg": {**text_cfg, **text}}
    peer = randomize(open_clip.model.CLIP(**config))
    if pool == "avg":  # bigcl's register has no position of its own: the two are one
        with torch.no_grad():
            peer.visual.class_embedding += peer.visual.positional_embedding[0]
            peer.visual.positional_embedding[0] = 0
    open_clip_folder(tmp_path / "peer", config, peer)
    model = arrive("open_clip", tmp_path / "peer", tmp_path / "out")
    x, ids = images(24), texts(10, 50)
    if "eos_id" in text:
        assert model.tower("text")["eos_id"] == 17
        ids[0, 4], ids[1, 2] = 17, 17  # before the largest id, and in a text that has none else: the third
    theirs = {
        "image": unit(peer.encode_image(torch_images(x))),
        "text": unit(peer.encode_text(torch.from_numpy(ids).long())),
    }
    close(model, x, ids, theirs)
    same_tensors(leave(names.export, model, tmp_path / "back"), peer.state_dict())
    again = open_clip.create_model(f"local-dir:{tmp_path / 'back'}").eval()
    np.testing.assert_array_equal(unit(again.encode_image(torch_images(x))), theirs["image"])
    np.testing.assert_array_equal(unit(again.encode_text(torch.from_numpy(ids).long())), theirs["text"])


@pytest.mark.parametrize("layers, width, size", [([1, 2, 1, 1], 8, 64), ([2, 1, 2, 1], 16, 96)])
def test_open_clip_resnet(layers, width, size, tmp_path):
    """Batch norms are folded, so that other tensors leave, which are the same function."""
    vision_cfg = {"image_size": size, "layers": layers, "width": width, "head_width": 16, "patch_size": None}
    text_cfg = {"context_length": 10, "vocab_size": 50, "width": 24, "heads": 2, "layers": 2}
    config = {"embed_dim": 20, "quick_gelu": True, "vision_cfg": vision_cfg, "text_cfg": text_cfg}
    peer = randomize(open_clip.model.CLIP(**config))
    for name, buffer in peer.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.add_(torch.rand_like(buffer), alpha=0.5)
    open_clip_folder(tmp_path / "peer", config, peer)
    model = arrive("open_clip", tmp_path / "peer", tmp_path / "out")
    x, ids = images(size), texts(10, 50)
    theirs = {
        "image": unit(peer.encode_image(torch_images(x))),
        "text": unit(peer.encode_text(torch.from_numpy(ids).long())),
    }
    close(model, x, ids, theirs)
    left = leave(names.export, model, tmp_path / "back")
    assert set(left) == set(peer.state_dict())
    once_more = leave(names.export, arrive("open_clip", tmp_path / "back", tmp_path / "again"), tmp_path / "twice")
    for name, tensor in left.items():
        np.testing.assert_allclose(once_more[name], tensor, rtol=1e-6, atol=1e-7, err_msg=name)
    again = open_clip.create_model(f"local-dir:{tmp_path / 'back'}").eval()
    np.testing.assert_allclose(unit(again.encode_image(torch_images(x))), theirs["image"], atol=TOLERANCE)
    with pytest.raises(Inexpressible, match="'vit'"):
        huggingface.clip(model)


def siglip_of_open_clip(name="vit_base_patch32_siglip_256", width=768):
    """open_clip's SigLIP with an image tower less deep than timm has by its name, and of fewer pixels."""
    text_cfg = {"context_length": 10, "vocab_size": 50, "width": 24, "heads": 2, "layers": 2, "proj_bias": True}
    text_cfg |= {"no_causal_mask": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}}
    vision_cfg = {"image_size": 64, "timm_model_name": name, "timm_pool": "map", "timm_proj": "none"}
    peer = open_clip.model.CustomTextCLIP(width, reference.open_clip_vision(), text_cfg, init_logit_bias=-10)
    trunk = timm.create_model(name, img_size=64, depth=1, mlp_ratio=0.5, num_classes=0)
    peer.visual = torch.nn.Sequential()
    peer.visual.add_module("trunk", trunk)
    config = {"embed_dim": width, "custom_text": True, "init_logit_bias": -10}
    return randomize(peer), {**config, "vision_cfg": vision_cfg, "text_cfg": text_cfg}


@pytest.mark.parametrize(
    "name, width", [("vit_base_patch32_siglip_256", 768), ("vit_giantopt_patch16_siglip_256", 1536)]
)
def test_open_clip_siglip(name, width, tmp_path):
    """Of both the activation is the tanh form; the second has heads of 96."""
    peer, config = siglip_of_open_clip(name, width)
    open_clip_folder(tmp_path / "peer", config, peer)
    model = arrive("open_clip", tmp_path / "peer", tmp_path / "out")
    activations = [model.tower(name)["activation"] for name in ("image", "text")]
    assert activations == ["gelu_tanh", "gelu"]  # as its loader has them
    x, ids = images(64), texts(10, 50)
    theirs = {
        "image": unit(peer.visual(torch_images(x))),
        "text": unit(peer.encode_text(torch.from_numpy(ids).long())),
    }
    close(model, x, ids, theirs)
    with pytest.raises(Inexpressible, match="published sizes only"):
        names.export(model, tmp_path)
    depth = {768: 12, 1536: 40}[width]
    whole = {**model.tower("image"), "depth": depth, "mlp_width": 4 * width, "image_size": 256}
    assert names.timm_name(whole) == name  # with the heads that it came with


def test_big_vision(tmp_path):
    """The same npz file through open_clip's own loader."""
    peer, _ = siglip_of_open_clip()
    image = {"kind": "vit", "image_size": 64, "patch": 32, "width": 768, "depth": 1, "heads": 12, "mlp_width": 384}
    text = {"kind": "text", "vocab": 50, "length": 10, "width": 24, "depth": 2, "heads": 2, "mlp_width": 96}
    text |= {"causal": False, "pool": "last", "embed_dim": 768, "projection_bias": True}
    towers = {"image": {**image, "pool": "map"}, "text": text}
    _, shapes = blank({"kind": "two_tower", "towers": towers, "losses": [{"kind": "sigmoid", "of": list(towers)}]})
    rng = np.random.default_rng(0)
    arrays = {k: rng.normal(scale=0.2, size=s).astype(np.float32) for k, s in shapes.items()}
    tensors = write(big_vision.TABLE, arrays)
    np.savez(tmp_path / "siglip.npz", **{f"params/{k}": v for k, v in tensors.items()})
    model = arrive("big_vision_npz", tmp_path / "siglip.npz", tmp_path / "out")
    for path, array in arrays.items():
        np.testing.assert_array_equal(model.arrays[path], array, err_msg=path)
    with torch.no_grad():
        open_clip.convert.load_big_vision_weights(peer, str(tmp_path / "siglip.npz"))
    for module in peer.text.transformer.modules():  # big_vision's activation in both towers
        if isinstance(module, torch.nn.GELU):
            module.approximate = "tanh"
    x, ids = images(64), texts(10, 50)
    theirs = {
        "image": unit(peer.visual(torch_images(x))),
        "text": unit(peer.encode_text(torch.from_numpy(ids).long())),
    }
    close(model, x, ids, theirs)


@pytest.mark.parametrize(
    "architecture, args",
    [
        ("vit_base_patch16_224", {}),
        ("vit_base_patch16_224", {"global_pool": "avg", "class_token": False, "fc_norm": False, "reg_tokens": 2}),
        ("vit_base_patch16_224", {"global_pool": "map", "class_token": False, "act_layer": "gelu_tanh"}),
        ("vit_base_patch16_clip_224", {"pre_norm": True}),
        ("vit_base_patch14_dinov2", {"patch_size": 8}),
        ("vit_base_patch14_reg4_dinov2", {"patch_size": 8}),
    ],
)
def test_timm(architecture, args, tmp_path):
    args = {"img_size": 32, "embed_dim": 128, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0, **args}
    peer = randomize(timm.create_model(architecture, num_classes=0, **args))
    folder = tmp_path / "peer"
    folder.mkdir()
    save_file(peer.state_dict(), folder / "model.safetensors")
    config = {"architecture": architecture, "num_classes": 0, "model_args": args, "pretrained_cfg": {}}
    (folder / "config.json").write_text(json.dumps(config))
    model = arrive("timm", folder, tmp_path / "out")
    x = images(32)
    expected = unit(peer(torch_images(x)))
    close(model, x, None, {"image": expected})
    left = leave(trunks.export, model, tmp_path / "back")
    if "reg_tokens" not in args and "dinov2" not in architecture:  # those are folded into others
        same_tensors(left, peer.state_dict())
    once_more = arrive("timm", tmp_path / "back", tmp_path / "once_more")
    for path, array in model.arrays.items():
        np.testing.assert_array_equal(once_more.arrays[path], array, err_msg=path)
    again = timm.create_model(f"local-dir:{tmp_path / 'back'}", pretrained=True).eval()
    np.testing.assert_allclose(unit(again(torch_images(x))), expected, atol=TOLERANCE)


def real_heads(names):
    """Width and heads of those vision transformers of the installed timm that bigcl reads by their name."""
    for name in names:
        with torch.device("meta"), contextlib.suppress(AssertionError, Inexpressible):
            trunks.architecture_options(name)
            model = timm.create_model(name, depth=1, num_classes=0)  # some want a number for each of their blocks
            attention = getattr(model.blocks[0], "attn", None)
            plain = type(model) is timm.models.VisionTransformer and attention is not None
            if plain and type(model.blocks[0].mlp) is timm.layers.Mlp:  # the others have other tensors
                yield name, model.embed_dim, attention.num_heads


@pytest.mark.parametrize(
    "pattern, least",
    [("vit_g*_patch*", 12), ("vit_huge_patch14*", 7), pytest.param("vit_*", 120, marks=pytest.mark.slow)],
)
def test_heads_are_those_of_timm(pattern, least, monkeypatch):
    """Of every name it has, and also without it."""
    names = list(real_heads(timm.list_models(pattern)))
    assert len(names) >= least
    for name, width, heads in names:
        assert trunks.heads_of(name, width) == heads, name
    monkeypatch.setattr(trunks, "registered", lambda name: None)
    for name, width, heads in names:
        assert trunks.heads_of(name, width) == heads, name


def test_heads_that_are_not_known(monkeypatch):
    with pytest.raises(Inexpressible, match="num_heads is missing, and 96 is not that of vit_base_patch16_224, 768"):
        trunks.heads_of("vit_base_patch16_224", 96)
    assert trunks.heads_of("vit_base_patch16_gap_224", 768) == 16
    monkeypatch.setattr(trunks, "registered", lambda name: None)
    assert trunks.heads_of("vit_base_patch16_gap_224", 768) == 16
    with pytest.raises(Inexpressible, match="num_heads is missing, and 96 is no published width"):
        trunks.heads_of("vit_base_patch16_224", 96)


def test_what_does_not_fit_is_listed(tmp_path):
    config = transformers.CLIPConfig(vision_config={**VISION, "image_size": 16, "patch_size": 8}, text_config=CLIP_TEXT)
    peer = transformers.CLIPModel(config)
    task, table = huggingface.clip_task(config.to_dict())
    _, shapes = blank(task)
    tensors = {k: v.numpy() for k, v in peer.state_dict().items()}
    tensors["extra"] = tensors.pop("logit_scale")
    tensors["text_model.final_layer_norm.bias"] = np.zeros(3, np.float32)
    with pytest.raises(Mismatch) as error:
        read(table, tensors, shapes, where="peer")
    message = str(error.value)
    assert "missing    logit_scale ()" in message and "left over  extra ()" in message
    assert "shape      text_model.final_layer_norm.bias: (3,), wanted (24,)" in message


def test_other_resolution_is_said(tmp_path, capsys):
    config = transformers.CLIPConfig(vision_config={**VISION, "image_size": 16, "patch_size": 8}, text_config=CLIP_TEXT)
    transformers.CLIPModel(config).save_pretrained(tmp_path / "peer")
    convert("transformers", tmp_path / "peer", tmp_path / "out", image_size=32)
    assert "POSITION EMBEDDINGS RESIZED from 2 x 2 to 4 x 4 (16 to 32 px)" in capsys.readouterr().out
    model = load(tmp_path / "out")
    assert model.arrays["towers/image/position"].shape == (17, 32)
    assert model.encode({"image": images(32)})["image"].shape == (3, 512)

"""open_clip's CoCa arrives without its decoder: the same embeddings and logits as there, and no way back."""

import json
import pathlib

import numpy as np
import pytest

open_clip = pytest.importorskip("open_clip", reason="compares with open_clip: pip install '.[interop-test]'")

import jax.numpy as jnp  # noqa: E402
import torch  # noqa: E402

from bigcl import export as command  # noqa: E402
from bigcl.checkpoint import Checkpoints  # noqa: E402
from bigcl.interop import open_clip as names  # noqa: E402
from bigcl.interop.model import Inexpressible  # noqa: E402
from tests.interop.test_convert import (  # noqa: E402
    arrive,
    images,
    open_clip_folder,
    randomize,
    tokenizer_folder,
    torch_images,
)

VISION = {"image_size": 24, "patch_size": 8, "width": 32, "layers": 2, "head_width": 8, "output_tokens": True}
POOLED = {**VISION, "attentional_pool": True, "attn_pooler_heads": 8, "attn_pooler_queries": 5}
TEXT = {"context_length": 10, "vocab_size": 50, "width": 24, "heads": 2, "layers": 2}
TEXT |= {"embed_cls": True, "output_tokens": True}
DECODER = {"context_length": 10, "vocab_size": 50, "width": 24, "heads": 2, "layers": 1}


def config_of(embed_dim=24, vision=POOLED, text=TEXT, **more):
    decoder = {**DECODER, "width": embed_dim}
    return {"embed_dim": embed_dim, "vision_cfg": vision, "text_cfg": text, "multimodal_cfg": decoder, **more}


def coca(config, folder):
    """A CoCa with random weights, in a folder as well."""
    peer = open_clip.coca_model.CoCa(**{k: v for k, v in config.items() if k != "custom_text"})
    torch.nn.init.zeros_(peer.text_decoder.text_projection)  # which the library leaves as the memory was
    open_clip_folder(folder, {**config, "custom_text": True}, randomize(peer))
    return peer


def padded(length, vocab, pad):
    """Texts of every kind of length: of one token, of some, all but one, full; and one with the pad's id inside."""
    ids = np.random.default_rng(1).integers(3, vocab - 1, (6, length), dtype=np.int32)
    for row, end in zip(ids, (0, 2, length // 2, length - 2, length - 1, length // 2), strict=True):
        row[end], row[end + 1 :] = vocab - 1, pad
    ids[5, 1] = pad
    return ids


def outputs(peer, x, ids):
    with torch.inference_mode():
        given = torch_images(x), torch.from_numpy(ids).long()
        image, text = peer.encode_image(given[0]), peer.encode_text(given[1])
        logits = peer.logit_scale.exp() * image @ text.T
        bias = 0 if peer.logit_bias is None else peer.logit_bias.item()
    return {"image": image.numpy(), "text": text.numpy(), "logits": (logits + bias).numpy()}


def agree(model, x, ids, theirs):
    ours = model.encode({"image": x, "text": ids})
    ours["logits"] = np.exp(model.arrays["log_scale"]) * ours["image"] @ ours["text"].T + model.arrays.get("bias", 0)
    for name, expected in theirs.items():
        np.testing.assert_allclose(ours[name], expected, atol=1e-4 if name == "logits" else 1e-5, rtol=0, err_msg=name)
    assert np.ptp(theirs["logits"]) > 0.1


@pytest.mark.parametrize(
    "config",
    [
        config_of(),
        config_of(embed_dim=32),  # the pooler's widths are equal, and its projections one tensor
        config_of(vision=VISION, quick_gelu=True),  # as coca_base: class token, no pooler
        config_of(text={**TEXT, "no_causal_mask": True, "pad_id": 1}, init_logit_bias=-3.0),
    ],
    ids=["pooler", "equal-widths", "class-token", "bidirectional"],
)
def test_coca(config, tmp_path, capsys):
    peer = coca(config, tmp_path / "peer")
    model = arrive("open_clip", tmp_path / "peer", tmp_path / "out")
    x, ids = images(24, n=4), padded(10, 50, config["text_cfg"].get("pad_id", 0))
    agree(model, x, ids, outputs(peer, x, ids))

    said = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("DECODER LEFT OUT"))
    left = [k for k in peer.state_dict() if k.startswith("text_decoder.")]
    assert "text_decoder.resblocks.*.attn.in_proj_weight, " in said and "text_decoder.text_projection" in said
    count = sum(peer.state_dict()[k].numel() for k in left)
    if "attentional_pool" in config["vision_cfg"]:
        assert said.endswith("visual.attn_pool.query[1:]")
        count += 4 * config["embed_dim"]
    assert f"({count:,} numbers)" in said


@pytest.mark.slow
def test_the_published_size(tmp_path):
    path = pathlib.Path(open_clip.__file__).parent / "model_configs" / "coca_ViT-B-32.json"
    config = json.loads(path.read_text())
    peer = coca(config, tmp_path / "peer")
    x, ids = images(224, n=2), padded(76, 49408, 0)
    theirs = outputs(peer, x, ids)
    del peer
    agree(arrive("open_clip", tmp_path / "peer", tmp_path / "out"), x, ids, theirs)


def test_what_leaves_and_what_does_not(tmp_path):
    coca(config_of(), tmp_path / "peer")
    model = arrive("open_clip", tmp_path / "peer", tmp_path / "out")
    for target in ("open_clip", "transformers", "timm"):
        with pytest.raises(Inexpressible, match="pool = 'coca'"):
            command.export(tmp_path / "out", target, tmp_path / target, verify=False)
    with pytest.raises(Inexpressible, match=r"towers\.image\.pool = 'coca': open_clip's CoCa needs its decoder"):
        names.export(model, tmp_path)
    figures = command.export(tmp_path / "out", "safetensors", tmp_path / "plain")
    assert set(figures) == set(model.arrays) and not any(figures.values())
    again = arrive("safetensors", tmp_path / "plain", tmp_path / "again")
    assert again.task == model.task


def test_it_leaves_as_stablehlo(tmp_path):
    pytest.importorskip("flatbuffers")
    coca(config_of(text={**TEXT, "vocab_size": 300}), tmp_path / "peer")
    tokenizer_folder(tmp_path / "peer")
    arrive("open_clip", tmp_path / "peer", tmp_path / "out")
    figures = command.export(tmp_path / "out", "jax", tmp_path / "compiled")
    assert figures["image"] < 1e-4 and figures["text"] < 1e-4


def test_a_run_starts_from_it(tmp_path):
    coca(config_of(), tmp_path / "peer")
    model = arrive("open_clip", tmp_path / "peer", tmp_path / "out")
    fresh = {k: jnp.zeros(v.shape) for k, v in model.arrays.items()}
    found = Checkpoints(tmp_path / "out" / "checkpoints").restore_params(fresh, ["towers/.*"])
    assert {"towers/image/map/probe", "towers/text/cls"} < set(found)
    for path in model.task["towers"]:
        for name in [k for k in found if k.startswith(f"towers/{path}/")]:
            np.testing.assert_array_equal(found[name], model.arrays[name], err_msg=name)


@pytest.mark.parametrize("named, pad", [(None, 0), ("some/tokenizer", 1)])
def test_texts_are_padded_as_its_tokenizer_pads_them(named, pad, tmp_path):
    """open_clip's own pads with 0, which is what the mask looks for; only one that is named has its own padding."""
    coca(config_of(text={**TEXT, **({} if named is None else {"hf_tokenizer_name": named})}), tmp_path / "peer")
    tokenizer_folder(tmp_path / "peer")
    tokenizer = arrive("open_clip", tmp_path / "peer", tmp_path / "out").tokenizer
    assert tokenizer.pad_id == tokenizer("the cat", 10)[-1] == pad


@pytest.mark.parametrize(
    "vision, message",
    [
        ({"attentional_pool": "parallel"}, "attentional_pool = 'parallel': with attentional_pool bigcl has True only"),
        ({"attn_pooler_heads": 4}, "attn_pooler_heads = 4"),
        ({"pool_type": "avg"}, "pool_type = 'avg'"),
        ({"norm_kwargs": {"eps": 1e-6}}, "norm_kwargs.eps = 1e-06"),
    ],
)
def test_other_poolers_are_refused(vision, message):
    with pytest.raises(Inexpressible, match=message):
        names.image_part({**POOLED, **vision}, {"embed_dim": 24}, {})

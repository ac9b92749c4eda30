"""Tables of names: one-to-one, undone exactly, and covering every parameter of the towers they are for."""

import numpy as np
import pytest

from bigcl.interop import big_vision, dual, huggingface, open_clip, resnet, siglip2, table, timm
from bigcl.interop.model import blank

VIT = {"kind": "vit", "image_size": 16, "patch": 4, "width": 8, "depth": 2, "heads": 2, "mlp_width": 12}
TEXT = {"kind": "text", "vocab": 11, "length": 5, "width": 6, "depth": 3, "heads": 2, "mlp_width": 10}


def task(image, text=None, loss="infonce"):
    towers = {"image": {**VIT, **image}} | ({} if text is None else {"text": {**TEXT, **text}})
    losses = [] if text is None else [{"kind": loss, "of": list(towers)}]
    return blank({"kind": "two_tower", "towers": towers, "losses": losses})[1]


CLIP = task({"pre_norm": True, "patch_bias": False, "embed_dim": 7}, {"embed_dim": 7})
SIGLIP = task({"pool": "map"}, {"pool": "last", "embed_dim": 8, "projection_bias": True}, "sigmoid")
NAFLEX = task({"pool": "map", "naflex": True}, {"pool": "last", "embed_dim": 8, "projection_bias": True}, "sigmoid")
DUAL = task({"pool": "mean", "embed_dim": 7}, {"embed_dim": 7})
RESNET = blank(
    {"kind": "two_tower", "losses": []}
    | {"towers": {"image": {"kind": "resnet", "image_size": 32, "depths": [2, 1, 1, 1], "width": 4, "heads": 2}}}
)[1]
LONE = {k: s for k, s in task({"registers": 2}).items() if k != "log_scale"}
TABLES = {
    "open_clip": (open_clip.table(trunk=False, custom_text=False, bias=False), CLIP),
    "open_clip_siglip": (open_clip.table(trunk=True, custom_text=True, bias=True), SIGLIP),
    "transformers_clip": (huggingface.CLIP, CLIP),
    "transformers_siglip": (huggingface.SIGLIP, SIGLIP),
    "transformers_dinov2": (table.under("", "towers/image/", huggingface.DINOV2), LONE),
    "transformers_naflex": (siglip2.TABLE, NAFLEX),
    "transformers_dual": (dual.DUAL, DUAL),
    "open_clip_resnet": (
        table.under("visual.", "towers/image/", resnet.table([2, 1, 1, 1])),
        {k: s for k, s in RESNET.items() if k != "log_scale"},
    ),
    "big_vision": (big_vision.TABLE, SIGLIP),
    "timm": (timm.VIT, LONE),
}


def numbered(shapes):
    """Arrays whose entries are all different."""
    total = 0
    arrays = {}
    for path, shape in shapes.items():
        size = int(np.prod(shape))
        arrays[path] = np.arange(total, total + size, dtype=np.float32).reshape(shape)
        total += size
    return arrays, total


@pytest.mark.parametrize("name", TABLES)
def test_every_number_has_one_place(name):
    names, shapes = TABLES[name]
    arrays, total = numbered(shapes)
    tensors = table.write(names, arrays)
    values = np.concatenate([t.ravel() for t in tensors.values()])
    np.testing.assert_array_equal(np.sort(values), np.arange(total, dtype=np.float32))
    assert {k: t.shape for k, t in tensors.items()} == table.outside_shapes(names, shapes)
    back = table.read(names, tensors, shapes, where=name)
    for path, array in arrays.items():
        np.testing.assert_array_equal(back[path], array, err_msg=path)


@pytest.mark.parametrize("name", TABLES)
def test_every_name_is_there_once(name):
    rows = TABLES[name][0]
    assert len({row.name for row in rows}) == len(rows)
    assert len({(row.path, str(row.part)) for row in rows}) == len(rows)


def test_a_parameter_without_a_place_is_named():
    shapes = {**CLIP, "towers/image/registers": (2, 8)}
    arrays, _ = numbered(shapes)
    with pytest.raises(table.Mismatch, match="no place for these parameters:\n  towers/image/registers"):
        table.write(TABLES["open_clip"][0], arrays)


def test_half_a_parameter_is_not_enough():
    rows = tuple(row for row in huggingface.CLIP if "vision_model" not in row.name or "k_proj.weight" not in row.name)
    with pytest.raises(table.Mismatch, match="attention/qkv"):
        table.write(rows, numbered(CLIP)[0])


def test_layouts_are_those_of_torch():
    """A dense layer and a convolution over patches, written out."""
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 3))
    kernel = np.random.default_rng(1).normal(size=(4 * 4 * 3, 5))
    weight = table.convolution(kernel)
    expected = np.einsum("bhwc,ochw->bo", x, weight)
    np.testing.assert_allclose(x.reshape(2, -1) @ kernel, expected)
    qkv = np.arange(6 * 2 * 3).reshape(6, 2, 3)
    np.testing.assert_array_equal(table.dense(qkv)[4], qkv[:, 1, 1])
    out = np.arange(2 * 3 * 6).reshape(2, 3, 6)
    np.testing.assert_array_equal(table.dense_from_heads(out)[:, 4], out[1, 1])

"""Positions at another resolution: the same numbers whether a model is converted to it or a run starts from it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from bigcl import registry
from bigcl.checkpoint import CheckpointError, Checkpoints
from bigcl.experiment import outline, position_fronts
from bigcl.interop.model import Inexpressible, Model, Preprocessing, blank, save
from bigcl.interop.resize import resize_positions
from bigcl.mesh import make_mesh, replicated
from bigcl.positions import resized, square

IMAGE = {"kind": "vit", "image_size": 16, "patch": 4, "width": 24, "depth": 1, "heads": 2, "registers": 2}
RESNET = {"kind": "resnet", "depths": [1, 1, 1, 1], "width": 4, "heads": 2}
PATH = "towers/image/position"


def model_of(image_size, **options):
    base = RESNET if options.get("kind") == "resnet" else IMAGE
    towers = {"image": {**base, **options, "image_size": image_size}}
    task, shapes = blank({"kind": "two_tower", "towers": towers, "losses": []})
    rng = np.random.default_rng(0)
    arrays = {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}
    return Model(task, arrays, None, Preprocessing(image_size))


@pytest.mark.parametrize("old, new", [(4, 7), (6, 2), (3, 3), (1, 5)])
@pytest.mark.parametrize("front", [0, 1])
def test_each_channel_is_resized_as_a_picture(old, new, front):
    """By Pillow, whose bicubic kernel has another parameter: on a ramp, which every kernel keeps inside, the same."""
    ramp = np.linspace(0, 1, old, dtype=np.float32)
    grid = np.stack([np.add.outer(2 * ramp, ramp), np.ones((old, old), np.float32)], -1)
    before = np.full((front, 2), 7, np.float32)
    position = np.concatenate([before, grid.reshape(-1, 2)])
    result, said = resized(position, front, new)
    assert said == f"POSITION EMBEDDINGS RESIZED from {old} x {old} to {new} x {new}"
    np.testing.assert_array_equal(result[:front], before)
    np.testing.assert_allclose(result[front:, 1], 1, atol=1e-6)
    found = result[front:, 0].reshape(new, new)
    expected = np.asarray(Image.fromarray(grid[..., 0]).resize((new, new), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(found, expected, atol=0.06 * 3 / old)
    if old == new:
        np.testing.assert_allclose(result, position, atol=1e-6)


def test_what_covers_no_square_is_refused():
    assert [square(n, 1) for n in (0, 1, 2, 5, 6, 10)] == [None, None, 1, 2, None, 3]
    with pytest.raises(ValueError, match="5 position embeddings are those of no square"):
        resized(np.zeros((6, 2), np.float32), 1, 2)


@pytest.mark.parametrize("pool, front", [("cls", 1), ("mean", 0)])
@pytest.mark.parametrize("size", [32, 8])
@pytest.mark.parametrize("on_mesh", [False, True])
def test_a_start_from_another_resolution_is_convert(pool, front, size, on_mesh, tmp_path, capsys):
    model = model_of(16, pool=pool)
    save(model, tmp_path / "run")
    other = model_of(size, pool=pool)
    build = functools.partial(registry.build, "task", other.task, batch_size=2)
    fronts = position_fronts(outline(build)[0])
    assert fronts == {PATH: front}
    fresh = {k: jnp.zeros(v.shape) for k, v in other.arrays.items()}
    if on_mesh:
        fresh = jax.device_put(fresh, replicated(make_mesh(data=-1)))
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints", read_only=True)
    found = checkpoints.restore_params(fresh, fronts=fronts)
    said = capsys.readouterr().err
    assert f"POSITION EMBEDDINGS RESIZED from 4 x 4 to {size // 4} x {size // 4}: params/{PATH} of" in said

    converted = resize_positions(model, size)
    assert "POSITION EMBEDDINGS RESIZED from 4 x 4" in converted and "no longer the published one" in converted
    assert set(found) == set(model.arrays)
    for path, array in model.arrays.items():
        np.testing.assert_array_equal(found[path], array, err_msg=path)
        assert found[path].sharding == fresh[path].sharding
    checkpoints.close()


def test_resnets_have_positions_too(tmp_path):
    """Those of the last feature map, behind that of its mean."""
    model, other = model_of(128, kind="resnet"), model_of(64, kind="resnet")
    save(model, tmp_path / "run")
    fronts = position_fronts(outline(functools.partial(registry.build, "task", other.task, batch_size=2))[0])
    assert fronts == {PATH: 1}
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints", read_only=True)
    found = checkpoints.restore_params({k: jnp.zeros(v.shape) for k, v in other.arrays.items()}, fronts=fronts)
    checkpoints.close()
    mean = model.arrays[PATH][0]
    assert "RESIZED from 4 x 4 to 2 x 2 (128 to 64 px)" in resize_positions(model, 64)
    assert model.arrays[PATH].shape == other.arrays[PATH].shape == (5, 128)
    np.testing.assert_array_equal(model.arrays[PATH][0], mean)
    np.testing.assert_array_equal(found[PATH], model.arrays[PATH])
    assert model.preprocessing.size == 64
    pictures = {"image": np.zeros((1, 64, 64, 3), np.uint8)}
    assert np.isfinite(model.encode(pictures)["image"]).all()
    with pytest.raises(Inexpressible, match="--image_size 80: no multiple of the stride, 32"):
        resize_positions(model, 80)


def test_the_same_resolution_is_taken_as_it_is(tmp_path, capsys):
    model = model_of(16)
    save(model, tmp_path / "run")
    fresh = {k: jnp.zeros(v.shape) for k, v in model.arrays.items()}
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints", read_only=True)
    found = checkpoints.restore_params(fresh, fronts={PATH: 1})
    np.testing.assert_array_equal(found[PATH], model.arrays[PATH])
    assert "RESIZED" not in capsys.readouterr().err
    checkpoints.close()


@pytest.mark.parametrize("change", [{"width": 12}, {"pool": "mean"}, {"patch": 2}])
def test_what_else_differs_is_an_error(change, tmp_path):
    """Another width, other tokens before the patches, other patches."""
    save(model_of(16), tmp_path / "run")
    other = model_of(32, **change)
    fronts = {PATH: int(change.get("pool") != "mean")}
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints", read_only=True)
    only = ["towers/image/(position|embed/.*)"]
    with pytest.raises(CheckpointError, match=r"shape      params/towers/image/(position|embed)"):
        checkpoints.restore_params({k: jnp.zeros(v.shape) for k, v in other.arrays.items()}, only, fronts=fronts)
    with pytest.raises(CheckpointError, match="shape      params/towers/image/position"):
        fresh = {k: jnp.zeros(v.shape) for k, v in model_of(32).arrays.items()}
        checkpoints.restore_params(fresh)
    checkpoints.close()

"""Files that are truncated, hostile or not what they say: a plain error that names the file, and nothing is run."""

import json
import pickle
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from bigcl.interop import files, open_clip
from bigcl.interop.files import BadFile
from bigcl.pretrained import Pretrained


class Bomb:
    """Unpickling it would leave a trace."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_floats_of_any_width(tmp_path):
    path = tmp_path / "model.safetensors"
    x = np.array([1.5, -2.0, 0.25])
    tensors = {t: x.astype(t) for t in ("float16", "float32", "float64")} | {"ids": np.arange(3)}
    half = x.astype(ml_dtypes.bfloat16).tobytes()
    safetensors.numpy.save_file(tensors, path)
    header = {"bf16": {"dtype": "BF16", "shape": [3], "data_offsets": [0, len(half)]}}
    encoded = json.dumps(header).encode()
    (tmp_path / "half.safetensors").write_bytes(struct.pack("<Q", len(encoded)) + encoded + half)
    found = files.read_tensors(path) | files.read_tensors(tmp_path / "half.safetensors")
    for name in ("float16", "float32", "bf16"):
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], x)
    np.testing.assert_array_equal(found["ids"], [0, 1, 2])


def test_npz_of_bfloat16(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([1.5, -2.0], ml_dtypes.bfloat16))
    np.testing.assert_array_equal(files.read_tensors(tmp_path / "a.npz")["x"], np.float32([1.5, -2.0]))


@pytest.mark.parametrize("keep", [0, 4, 9, 60, -1])
@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_truncated(suffix, keep, tmp_path):
    path = tmp_path / f"model{suffix}"
    tensors = {"a": np.ones((4, 4), np.float32)}
    if suffix == ".npz":
        np.savez(path, **tensors)
    else:
        safetensors.numpy.save_file(tensors, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BadFile, match=f"{path.name}: no readable"):
        files.read_tensors(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
@settings(max_examples=50, deadline=None)
@given(data=st.binary(max_size=200))
def test_noise(suffix, data, tmp_path_factory):
    path = tmp_path_factory.mktemp("noise") / f"model{suffix}"
    path.write_bytes(data)
    try:
        assert all(isinstance(v, np.ndarray) for v in files.read_tensors(path).values())
    except BadFile as error:
        assert path.name in str(error)


def test_no_pickle_in_npz(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([Bomb(tmp_path / "trace")], object))
    with pytest.raises(BadFile, match="plain arrays"):
        files.read_tensors(tmp_path / "a.npz")
    assert not (tmp_path / "trace").exists()


def test_no_pickle_in_torch_files(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"x": torch.ones(2), "y": Bomb(tmp_path / "trace")}, tmp_path / "a.pt")
    (tmp_path / "b.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "trace")))
    (tmp_path / "c.pth").write_bytes(b"junk")
    for name in ("a.pt", "b.bin", "c.pth"):
        with pytest.raises(BadFile, match=f"{name}: no PyTorch file of tensors alone"):
            files.read_tensors(tmp_path / name)
    assert not (tmp_path / "trace").exists()


def test_torch_files_of_tensors(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"state_dict": {"module.x": torch.ones(2, dtype=torch.bfloat16)}, "epoch": 3}, tmp_path / "a.pt")
    np.testing.assert_array_equal(files.read_tensors(tmp_path / "a.pt")["x"], np.ones(2, np.float32))


def test_not_finite(tmp_path):
    safetensors.numpy.save_file({"a": np.array([np.nan], np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(BadFile, match="not finite: a"):
        files.read_tensors(tmp_path / "model.safetensors")


def test_an_index_stays_in_its_folder(tmp_path):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    with pytest.raises(BadFile, match="expected a safetensors file in the same folder"):
        files.read_tensors(path)


def test_shards(tmp_path):
    for i in (1, 2):
        safetensors.numpy.save_file({f"x{i}": np.full(2, i, np.float32)}, tmp_path / f"{i}.safetensors")
    index = {"weight_map": {"x1": "1.safetensors", "x2": "2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    found = files.read_tensors(files.find_weights(tmp_path))
    assert {k: v[0] for k, v in found.items()} == {"x1": 1, "x2": 2}


def test_a_folder_without_weights(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(FileNotFoundError, match="no file of weights; give the path of one of"):
        files.find_weights(tmp_path)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_each_library_reads_its_own_file(suffix, tmp_path):
    """Of a folder of the Hub that holds those of several."""
    own, other = (
        ("model", "open_clip_model") if suffix == ".safetensors" else ("pytorch_model", "open_clip_pytorch_model")
    )
    for name in (own, other):
        (tmp_path / f"{name}{suffix}").write_text("")
    assert files.find_weights(tmp_path).name == f"{own}{suffix}"
    assert files.find_weights(tmp_path, open_clip.WEIGHTS).name == f"{other}{suffix}"


def test_a_folder_of_onnx_graphs(tmp_path):
    (tmp_path / "image.onnx").write_text("")
    files.write_json({"task": {"towers": {}}}, tmp_path / "config.json")
    with pytest.raises(FileNotFoundError, match=f"^{tmp_path} holds ONNX graphs, of which bigcl reads no weights"):
        Pretrained.open(tmp_path)

"""TorchScript archives: the same tensors as PyTorch finds in them, and nothing that they hold is run."""

import pickle
import zipfile

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="writes archives: pip install '.[interop-test]'")

from bigcl.interop import files, torchscript  # noqa: E402
from bigcl.interop.files import BadFile  # noqa: E402
from tests.interop.test_files import Bomb  # noqa: E402


class Block(torch.nn.Module):
    """Parameters and buffers of several types and layouts, and attributes that are neither."""

    sizes: list[int]

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(3)
        self.turned = torch.nn.Parameter(torch.randn(4, 6).half().T)
        self.mask, self.sizes = torch.ones(3), [3, 4]
        self.register_buffer("whole", torch.arange(12)[5:])
        self.register_buffer("brain", torch.randn(2, 2).bfloat16())

    def forward(self, x):
        return self.norm(x) * self.mask.sum() + self.turned.sum() + self.whole.sum() + self.brain.sum()


class Pair(torch.nn.Module):
    """The same class twice, and shared weights."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(Block(), Block())
        self.layers[1].turned = self.layers[0].turned
        self.share = torch.nn.Parameter(torch.tensor(224.0))

    def forward(self, x):
        return self.layers(x) * self.share


@pytest.fixture(params=["traced", "scripted"])
def archive(request, tmp_path):
    torch.manual_seed(0)
    model, path = Pair().eval(), tmp_path / "model.pt"
    compiled = torch.jit.trace(model, torch.randn(1, 3, 4, 4)) if request.param == "traced" else torch.jit.script(model)
    compiled.save(str(path))
    return compiled, path


def test_the_tensors_of_its_state_dict(archive):
    compiled, path = archive
    found, expected = files.read_tensors(path), compiled.state_dict()
    assert len(expected) >= 14 and set(found) == set(expected)
    for name, tensor in expected.items():
        wide = tensor.float() if tensor.is_floating_point() else tensor
        np.testing.assert_array_equal(found[name], wide.numpy(), err_msg=name)


def rewritten(path, out, change):
    """The archive with other members: change(name, bytes)."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            new.writestr(info, change(info.filename, old.read(info)))
    return out


@pytest.mark.parametrize("archive", ["scripted"], indirect=True)
def test_nothing_in_it_is_run(archive, tmp_path):
    bomb = pickle.dumps(Bomb(tmp_path / "trace"), protocol=2)
    changes = {
        "tree": lambda n, b: bomb if n.endswith("/data.pkl") else b,
        "class": lambda n, b: b.replace(b"ctorch._utils\n_rebuild_tensor_v2", b"cbuiltins\nexec"),
    }
    for name, change in changes.items():
        path = rewritten(archive[1], tmp_path / f"{name}.pt", change)
        assert torchscript.is_archive(path)
        with pytest.raises(BadFile, match=r"no readable TorchScript archive .*: it holds (_?io\.open|builtins\.exec)"):
            files.read_tensors(path)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("archive", ["scripted"], indirect=True)
@pytest.mark.parametrize(
    "member, old, new",
    [
        ("/data.pkl", b"BatchNorm2d", b"BatchNorm3d"),
        ("/data/0", None, b""),
        ("/byteorder", b"little", b"big"),
        (".py", b"class ", b"klass "),
        ("/data.pkl", None, pickle.dumps(3)),
        ("/data.pkl", None, b"\x80\x02r\xff\xff\xff\x7f."),
    ],
)
def test_damage_is_said(member, old, new, archive, tmp_path):
    def change(name, data):
        return data if not name.endswith(member) else new if old is None else data.replace(old, new)

    path = rewritten(archive[1], tmp_path / "damaged.pt", change)
    with pytest.raises(BadFile, match=r"damaged\.pt: no readable TorchScript archive"):
        files.read_tensors(path)


def test_a_tensor_stays_within_its_storage():
    storage, data = torchscript.Storage(np.float32, "0"), bytes(24)
    assert torchscript.view(torchscript.Tensor(storage, 1, (2, 2), (1, 2)), data).shape == (2, 2)
    for offset, shape, strides in [
        (3, (2, 2), (2, 1)),
        (0, (1 << 40,), (0,)),
        (-1, (2,), (1,)),
        (0, (2,), (-9,)),
        (0, ((1, 1),), (1,)),
    ]:
        with pytest.raises(ValueError):
            torchscript.view(torchscript.Tensor(storage, offset, shape, strides), data)

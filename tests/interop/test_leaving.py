"""What is for training alone stays behind and is said; what leaves is compared in float32."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from bigcl import export as command
from bigcl import registry
from bigcl.checkpoint import Checkpoints
from bigcl.config import plain
from bigcl.experiment import Experiment
from bigcl.interop import files, proof, stablehlo
from bigcl.interop import plain as plain_arrays
from bigcl.interop.model import Inexpressible, build, encoded, load
from bigcl.pretrained import Pretrained
from bigcl.state import Skeleton
from tests.faults.tiny import get_config


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """What a run leaves that has a teacher, a head with batch norm, and a temperature for the head's loss alone."""
    config = {key: value for key, value in plain(get_config()).items() if key not in ("evals", "checkpoint")}
    head = {"kind": "mlp", "of": ["image", "text"], "inputs": 8, "widths": [8, 8], "batch_norm": True}
    teachers = {"teacher_a": "teacher/image", "teacher_b": "teacher/text"}
    distillation = {"kind": "similarity_distillation", "of": ["image", "text"], "with": teachers, "scale": 1.0}
    config["task"] |= {"heads": {"local": head}, "teacher": {"decay": 0.9}, "scales": {"own": 5.0}}
    config["task"]["losses"] = [
        {"kind": "infonce", "of": ["image", "text"]},
        {"kind": "sigmoid", "of": ["local/image", "local/text"], "scale": "own"},
        distillation,
    ]
    folder = tmp_path_factory.mktemp("trained")
    task = registry.build("task", config["task"], batch_size=2, rngs=nnx.Rngs(0))
    params, extra = Skeleton(task).split(task)
    assert extra and all(k.startswith("teacher/") for k in extra)
    checkpoints = Checkpoints(folder / "checkpoints")
    arrays = {f"{group}/{k}": v for group, part in {"params": params, "extra": extra}.items() for k, v in part.items()}
    checkpoints.manager.save(7, args=ocp.args.StandardSave(arrays))
    checkpoints.close()
    files.write_json(Experiment.resolve(config), folder / "config.json")
    return folder


def test_heads_and_teacher_stay_behind(workdir, capsys):
    """With their losses, and with the scale and bias that are theirs alone; the embeddings are those of the run."""
    model = load(workdir)
    said = capsys.readouterr().out
    for name in ("heads.local", "teacher", "losses[1] (sigmoid)", "losses[2]", "scales.own"):
        assert f"task.{name}" in said
    assert {k.split("/")[0] for k in model.arrays} == {"towers", "log_scale"}
    rng = np.random.default_rng(0)
    batch = {"image": rng.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8), "text": rng.integers(0, 64, (3, 6))}
    batch["text"] = batch["text"].astype(np.int32)
    for name, x in Pretrained.open(workdir).encode(batch).items():
        np.testing.assert_allclose(model.encode(batch)[name], x, atol=1e-6)


@pytest.mark.parametrize("target", ["jax", "safetensors"])
def test_a_run_with_heads_and_teacher_leaves_with_proof(target, workdir, tmp_path):
    if target == "jax":
        pytest.importorskip("flatbuffers")
    figures = command.export(workdir, target, tmp_path / "out")
    assert proof.passed(figures) and (target == "safetensors" or {"image", "text", "logits"} <= set(figures))
    task = files.read_json(tmp_path / "out" / "config.json")["task"]
    assert task["heads"] == {} and task["teacher"] is None and len(task["losses"]) == 1


def products(jaxpr):
    """The precision of each product of matrices and convolution of a program, those within loops as well."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            yield equation.params["precision"]
        for part in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(part, "jaxpr", part)
            if hasattr(inner, "eqns"):
                yield from products(inner)


def test_the_proof_computes_in_float32_on_any_device(workdir):
    """Which no difference on a CPU would show: the program itself says so."""
    model = load(workdir)
    batch = {"image": jnp.zeros((1, 8, 8, 3), jnp.uint8), "text": jnp.zeros((1, 6), jnp.int32)}
    skeleton = build(model.task)[1]
    found = list(products(jax.make_jaxpr(lambda a: encoded(skeleton, a, batch))(model.arrays).jaxpr))
    assert len(found) > 8 and {str(p) for one in found for p in one} == {"HIGHEST"}


def test_stablehlo_says_its_precision(workdir, tmp_path):
    pytest.importorskip("flatbuffers")
    stablehlo.export(load(workdir), tmp_path)
    for name in ("image", "text", "logits"):
        program = jax.export.deserialize(bytearray((tmp_path / f"{name}.stablehlo").read_bytes())).mlir_module()
        lines = re.findall(r" = stablehlo\.(?:dot_general|convolution) .*", program)
        assert lines and all("precision = [HIGHEST, HIGHEST]" in line for line in lines), name


def test_the_folder_is_named_whatever_goes_wrong(workdir, tmp_path, monkeypatch):
    """And there is none if nothing was written."""

    def fail(model, out):
        (out / "config.json").write_text("{}")
        raise KeyError("unexpected")

    with pytest.raises(Inexpressible, match="open_clip"):
        command.export(workdir, "open_clip", tmp_path / "refused", verify=False)
    assert not (tmp_path / "refused").exists()
    monkeypatch.setattr(plain_arrays, "export", fail)
    with pytest.raises(KeyError) as error:
        command.export(workdir, "safetensors", tmp_path / "out")
    assert error.value.__notes__ == [f"What was written until then is in {tmp_path / 'out'}."]


@pytest.mark.parametrize("nested", [True, False])
def test_the_proof_reads_the_examples_of_an_evaluation_within_another(nested, workdir):
    model, source = load(workdir), plain(get_config())["data"]["source"]
    inner = {"evaluator": {"kind": "retrieval", "source": source}} if nested else {}
    model.card["config"] = {"evals": {"noise": {"kind": "robustness", **inner}}}
    found = proof.evaluated(model)
    assert found is None if not nested else len(found) == source["size"]

"""Checkpoints: the same arrays back, the right ones kept, and nothing partial without saying so."""

import contextlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigcl.checkpoint import CheckpointError, Checkpoints, checksums, compiled_checksums, host_bytes
from bigcl.experiment import Experiment
from bigcl.interop.model import load_arrays
from bigcl.mesh import make_mesh
from bigcl.registry import ConfigError
from bigcl.train import run
from tests.faults import tiny
from tests.problems import MLPS, Problem, batches

BEST = "eval/retrieval/text_to_image/recall@1"


@pytest.fixture(scope="module")
def problem():
    return Problem(MLPS)


def advanced(problem, steps):
    """A state after some steps."""
    state, step = problem.new(), jax.jit(problem.step)
    for batch in batches(steps):
        state, _ = step(state, problem.batch(batch))
    return state


def same(a, b):
    """Whether two states are equal to the bit."""
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in leaves)


def kept(folder):
    """Steps that have a checkpoint."""
    return sorted(int(p.name) for p in folder.iterdir())


def test_restores_every_bit_in_its_place(problem, tmp_path):
    state = advanced(problem, 3)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, state)
    checkpoints.close()
    restored = Checkpoints(tmp_path).restore(state)
    assert same(restored, state)
    assert [x.sharding for x in jax.tree.leaves(restored)] == [x.sharding for x in jax.tree.leaves(state)]


def test_keeps_the_latest_the_best_and_every_nth(problem, tmp_path):
    state = problem.new()
    checkpoints = Checkpoints(tmp_path, keep_every=4, best=BEST)
    for step, score in enumerate([0.1, 0.2, 0.9, 0.3, 0.8, 0.4, 0.5], start=1):
        checkpoints.save(step, state)
        checkpoints.rate(step, {BEST: score, "loss": 100.0 - step})
    checkpoints.close()
    assert kept(tmp_path) == [3, 4, 6, 7]


def test_lowest_is_best_when_asked(problem, tmp_path):
    checkpoints = Checkpoints(tmp_path, best="eval/x", best_is="lowest")
    for step, score in enumerate([5.0, 2.0, 3.0, 4.0, math.nan], start=1):
        checkpoints.save(step, problem.new())
        checkpoints.rate(step, {"eval/x": score})
    checkpoints.close()
    assert kept(tmp_path) == [2, 4, 5]


def test_a_checkpoint_that_does_not_fit_is_refused_with_every_difference(problem, tmp_path):
    state = problem.new()
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state)
    checkpoints.manager.wait_until_finished()
    params = dict(state.params)
    gone = params.pop("log_scale")
    params["towers/c/extra"] = gone
    first = next(k for k in params if k.endswith("kernel"))
    params[first] = jnp.zeros((1, 1))
    with pytest.raises(CheckpointError) as error:
        checkpoints.restore(state.replace(params=params))
    message = str(error.value)
    assert "missing    params/towers/c/extra ()" in message
    assert "left over  params/log_scale ()" in message
    assert f"shape      params/{first}: saved {state.params[first].shape}, wanted (1, 1)" in message


def test_another_dtype_is_a_difference_and_no_damage(problem, tmp_path):
    """As of moments, by `optim.mu_dtype`: nothing is put aside, and the run goes on as it was."""
    folder, state = tmp_path / "checkpoints", problem.new()
    checkpoints = Checkpoints(folder)
    checkpoints.save(1, state)
    checkpoints.manager.wait_until_finished()
    params = {k: v.astype(jnp.bfloat16) if k == "log_scale" else v for k, v in state.params.items()}
    with pytest.raises(CheckpointError, match="dtype      params/log_scale: saved float32, wanted bfloat16"):
        checkpoints.restore_newest(state.replace(params=params))
    assert not (tmp_path / "damaged").exists() and same(checkpoints.restore_newest(state), state)


def test_a_step_that_is_not_there_is_named(problem, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        checkpoints.restore(problem.new())
    checkpoints.save(2, problem.new())
    checkpoints.manager.wait_until_finished()
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 5 .* there are: \[2\]"):
        checkpoints.restore(problem.new(), 5)


def test_another_run_gives_the_parameters_that_are_asked_for(problem, tmp_path):
    trained, fresh = advanced(problem, 3), problem.new()
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, trained)
    checkpoints.manager.wait_until_finished()
    params = checkpoints.restore_params(fresh.params, ["towers/a/.*"])
    for path, value in params.items():
        source = trained if path.startswith("towers/a/") else fresh
        assert np.array_equal(value, source.params[path]), path
    with pytest.raises(ConfigError, match=r"'towers/z/\.\*' matches no parameter"):
        checkpoints.restore_params(fresh.params, ["towers/z/.*"])
    with pytest.raises(CheckpointError, match="missing    params/towers/a/more"):
        checkpoints.restore_params({**fresh.params, "towers/a/more": fresh.params["log_scale"]}, ["towers/a/.*"])


def small(names, **checkpoint):
    """A config of seconds that changes nothing."""
    source = {"kind": "xor", "size": 64}
    return {
        "train": {"steps": 1, "batch": 16, "profile": 0},
        "data": {"source": source},
        "task": {"kind": "two_tower", "towers": {n: {"kind": "mlp", "inputs": 1, "widths": [4]} for n in names}},
        "optim": {"lr": 0.0},
        "checkpoint": checkpoint,
    }


def test_a_run_starts_from_parts_of_several_runs(tmp_path):
    for seed, name in enumerate(("one", "other")):
        run({**small("ab"), "seed": seed}, tmp_path / name, report=False)
    origins = {"towers/a": f"{tmp_path / 'one'}#towers/b", "towers/b": f"{tmp_path / 'other'}#towers/b"}
    run({**small("ab", init_from=origins), "seed": 2}, tmp_path / "both", report=False)
    one, other, both = (load_arrays(tmp_path / n / "checkpoints", None)[0] for n in ("one", "other", "both"))
    kernel = "towers/{}/layers/0/kernel"
    assert not np.array_equal(one[kernel.format("b")], other[kernel.format("b")])
    np.testing.assert_array_equal(both[kernel.format("a")], one[kernel.format("b")])
    np.testing.assert_array_equal(both[kernel.format("b")], other[kernel.format("b")])
    with pytest.raises(CheckpointError, match="missing    params/towers/c/x"):
        Checkpoints(tmp_path / "one" / "checkpoints", read_only=True).restore_params(
            {"towers/a/x": jnp.zeros(4)}, prefix=("towers/a/", "towers/c/")
        )


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ({"init_from": {"towers/c": "runs/a#towers/a"}}, r"checkpoint\.init_from: pattern 'towers/c/\.\*' matches no"),
        (
            {"init_from": {"towers/a": "runs/a"}},
            r"checkpoint\.init_from: 'towers/a': expected FOLDER#PART, got 'runs/a'",
        ),
        ({"init_from": {"towers/a": "runs/a#b"}, "init_only": ["x"]}, r"checkpoint\.init_only: .* leave it out"),
    ],
)
def test_parts_that_cannot_be_found_are_named(checkpoint, message):
    with pytest.raises(ConfigError, match=message):
        Experiment.resolve(small("ab", **checkpoint))


def test_the_best_stays_when_a_run_goes_on_in_another_process(problem, tmp_path):
    state = problem.new()
    rows = []
    for step, score in enumerate([0.1, 0.9, 0.3, 0.4, 0.2], start=1):
        checkpoints = Checkpoints(tmp_path, best=BEST)
        for row in rows:
            checkpoints.rate(row["step"], row)
        checkpoints.save(step, state)
        rows.append({"step": step, BEST: score})
        checkpoints.close()
    assert kept(tmp_path) == [2, 4, 5]


def test_a_step_that_was_not_evaluated_is_not_the_best(problem, tmp_path):
    state = problem.new()
    checkpoints = Checkpoints(tmp_path, best=BEST)
    for step, score in enumerate([0.5, None, None, None, 0.1, None, None], start=1):
        checkpoints.save(step, state)
        if score is not None:
            checkpoints.rate(step, {BEST: score})
    checkpoints.close()
    assert kept(tmp_path) == [1, 6, 7]


@pytest.mark.parametrize("seed", range(12))
def test_damage_is_found_and_the_checkpoint_before_is_used(problem, tmp_path, seed, capsys):
    """A byte flipped or a tail cut off at random, in a file that matters or in one that does not."""
    folder, rng = tmp_path / "checkpoints", np.random.default_rng(seed)
    checkpoints, old, new = Checkpoints(folder), advanced(problem, 1), advanced(problem, 2)
    checkpoints.save(1, old)
    checkpoints.save(2, new)
    checkpoints.close()
    files = sorted(p for p in (folder / "2").rglob("*") if p.is_file() and p.stat().st_size)
    path = files[rng.integers(len(files))]
    content = bytearray(path.read_bytes())
    place = rng.integers(len(content))
    if seed % 3 == 0:
        del content[place:]
    else:
        content[place] ^= 1 << rng.integers(8)
    path.write_bytes(content)
    restored = Checkpoints(folder).restore_newest(problem.new())
    if (tmp_path / "damaged" / "2").exists():
        assert same(restored, old) and "is damaged" in capsys.readouterr().err
    else:
        assert same(restored, new)


def test_the_same_step_may_be_damaged_again(problem, tmp_path):
    folder, state = tmp_path / "checkpoints", problem.new()
    for _ in range(2):
        checkpoints = Checkpoints(folder)
        checkpoints.save(1, state)
        checkpoints.save(2, state)
        checkpoints.close()
        largest = max((p for p in (folder / "2").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
        largest.write_bytes(b"")
        assert same(Checkpoints(folder).restore_newest(state), state)
        assert kept(folder) == [1] and kept(tmp_path / "damaged") == [2]


def test_a_flipped_bit_of_any_array_is_found(problem):
    for dtype in (jnp.float32, jnp.bfloat16, jnp.int32, jnp.uint8, jnp.bool_, jnp.float16):
        x = jax.random.normal(jax.random.key(0), (5, 7, 3)).astype(dtype)
        before = checksums({"x": x})["x"]
        raw = np.array(x)
        words = raw.view(np.uint8).reshape(-1)
        for place in range(0, words.size, 11):
            words[place] ^= 1 if dtype == jnp.bool_ else 16
            assert checksums({"x": jnp.asarray(raw)})["x"] != before, (dtype, place)
            words[place] ^= 1 if dtype == jnp.bool_ else 16
        swapped = np.array(x)
        swapped[[0, 1]] = swapped[[1, 0]]
        assert checksums({"x": jnp.asarray(swapped)})["x"] != before or np.array_equal(swapped, x)


def test_checksums_take_no_memory():
    x = {"x": jax.ShapeDtypeStruct((12, 256, 1024), jnp.float32)}
    assert compiled_checksums().lower(x).compile().memory_analysis().temp_size_in_bytes < 1e5


def test_a_checksum_is_the_same_on_any_mesh():
    x = np.random.default_rng(0).normal(size=(16, 24)).astype(np.float32)
    mesh = make_mesh(data=2, fsdp=4)
    there = jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data", "fsdp")))
    assert checksums({"x": there})["x"] == checksums({"x": jnp.asarray(x)})["x"]


MESHES = {"data": {}, "fsdp": {"fsdp": 8}, "tensor": {"tensor": 2, "fsdp": 4}}


@pytest.mark.parametrize("there", ["fsdp", "tensor"])
def test_a_state_is_restored_exactly_on_another_mesh_and_back(tmp_path, there):
    """Parameters, moments, average and counters, each in its place on the eight devices of the mesh."""
    tower = {"width": 64, "depth": 2, "heads": 2, "embed_dim": 8}
    config = {
        "train": {"steps": 1, "batch": 16, "ema": 0.9},
        "data": {"source": tiny.get_config().to_dict()["data"]["source"]},
        "task": {
            "kind": "two_tower",
            "towers": {
                "image": {"kind": "vit", "image_size": 8, "patch": 4, "pool": "mean", **tower},
                "text": {"kind": "text", "vocab": 64, "length": 6, **tower},
            },
        },
        "optim": {"lr": 1e-3},
    }
    home, away = (Experiment(**config, mesh=MESHES[name]) for name in ("data", there))
    rng, shapes = np.random.default_rng(0), home.state_shapes
    state = jax.tree.map(lambda x: jax.device_put(arbitrary(rng, x), x.sharding), shapes)
    for experiment, name in ((away, "away"), (home, "home")):
        checkpoints = Checkpoints(tmp_path / name)
        checkpoints.save(1, state)
        checkpoints.close()
        moved = Checkpoints(tmp_path / name).restore(experiment.state_shapes)
        assert same(moved, state)
        for x, shape in zip(jax.tree.leaves(moved), jax.tree.leaves(experiment.state_shapes), strict=True):
            assert x.sharding == shape.sharding and len(x.sharding.device_set) == 8
        axes = {axis for x in jax.tree.leaves(moved) for axis in jax.tree.leaves(tuple(x.sharding.spec))}
        assert {a for a in axes if experiment.mesh.shape[a] > 1} == ({there, "fsdp"} if experiment is away else set())
        state = moved


def arbitrary(rng, like):
    """An array of any bits that make a number."""
    if jnp.issubdtype(like.dtype, jnp.floating):
        return jnp.asarray(rng.normal(size=like.shape), like.dtype)
    return jnp.asarray(rng.integers(0, 2, like.shape), like.dtype)


def test_a_reader_disturbs_nothing(problem, tmp_path):
    folder = tmp_path / "checkpoints"
    with pytest.raises(CheckpointError, match=f"no folder {folder}"):
        Checkpoints(folder, read_only=True)
    assert not folder.exists()
    checkpoints = Checkpoints(folder)
    checkpoints.save(1, problem.new())
    checkpoints.close()
    unfinished = folder / "2.orbax-checkpoint-tmp"  # another process is writing it
    unfinished.mkdir()
    reader = Checkpoints(folder, read_only=True)
    assert same(reader.restore(problem.new()), problem.new())
    reader.close()
    assert unfinished.is_dir()


def test_a_save_that_fails_is_said_and_leaves_nothing(problem, tmp_path, no_room, capsys):
    state = advanced(problem, 1)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state)
    checkpoints.manager.wait_until_finished()
    with no_room(100):
        for step in (2, 3, 4):
            with contextlib.suppress(CheckpointError):
                checkpoints.save(step, state)
        checkpoints.sweep()
        assert kept(tmp_path) == [1]
    checkpoints.save(5, state)  # the next slot
    checkpoints.close()
    assert kept(tmp_path) == [1, 5] and same(Checkpoints(tmp_path).restore(state), state)
    assert "a checkpoint could not be written" in capsys.readouterr().err


def test_the_latest_two_slots_stay_whatever_else_is_saved(problem, tmp_path):
    checkpoints = Checkpoints(tmp_path, slots=10)
    for step in (10, 20, 30, 31, 32, 33):
        checkpoints.save(step, problem.new())
    checkpoints.close()
    assert kept(tmp_path) == [20, 30, 32, 33]


def test_going_back_removes_what_came_later(problem, tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_every=1)
    for step in (1, 2, 3):
        checkpoints.save(step, advanced(problem, step))
    checkpoints.manager.wait_until_finished()
    assert same(checkpoints.go_back(1, problem.new()), advanced(problem, 1))
    checkpoints.save(2, advanced(problem, 3))
    checkpoints.close()
    assert kept(tmp_path) == [1, 2] and same(Checkpoints(tmp_path).restore(problem.new(), 2), advanced(problem, 3))


def test_a_save_holds_each_part_of_the_state_once():
    x = np.zeros((16, 24), np.float32)
    mesh = make_mesh(data=2, fsdp=4)
    whole = jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    split = jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp")))
    assert host_bytes({"a": whole, "b": split}) == 2 * x.nbytes

"""Transforms of batches on the accelerator: against NumPy and the host, on one device and eight, in micro-batches, in
runs that are resumed, evaluated and opened again."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigcl.config import plain
from bigcl.data.pipeline import open_pipeline
from bigcl.data.transforms import audio, device, image
from bigcl.evaluate import restore
from bigcl.experiment import Experiment
from bigcl.mesh import batch_sharding, make_mesh
from bigcl.pretrained import Pretrained
from bigcl.registry import ConfigError
from bigcl.state import make_step
from bigcl.train import run
from tests.faults import tiny
from tests.problems import BATCH, Problem, assert_close, batches

PIXELS = np.random.default_rng(0).integers(0, 256, (64, 6, 10, 3), np.uint8)
IMAGES = PIXELS.astype(np.float32) / 255
KEY = jax.random.key(5)
RANDOM = [device.RandomFlip(), device.Mixup(), device.CutMix()]
MIXED = {"permutation": "image_partner", "coefficients": "image_share"}


def test_flip_is_that_of_the_host_in_half_of_the_rows():
    result = np.asarray(device.RandomFlip()({"image": jnp.asarray(PIXELS)}, KEY)["image"])
    heads = type("", (), {"random": lambda self: 0.0})()
    host = [image.RandomFlip()({"image": p}, heads)["image"] for p in PIXELS]
    flipped = [np.array_equal(r, h) for r, h in zip(result, host, strict=True)]
    kept = [np.array_equal(r, p) for r, p in zip(result, PIXELS, strict=True)]
    assert all(f != k for f, k in zip(flipped, kept, strict=True)) and 16 < sum(flipped) < 48


@pytest.mark.parametrize("options", [{}, {"preset": "clap"}, {"mels": 40, "key": "sound"}])
def test_log_mel_is_that_of_the_host(options):
    key = options.get("key", "audio")
    waves = np.random.default_rng(0).uniform(-1, 1, (16, 4800)).astype(np.float32)
    host = [audio.LogMel(**options)({key: w}, np.random.default_rng(0))[key] for w in waves]
    for rng in (None, KEY):
        for wave in (jnp.asarray(waves), jax.device_put(waves, batch_sharding(make_mesh()))):
            made = jax.jit(audio.DeviceLogMel(**options))({key: wave}, rng)[key]
            assert made.dtype == np.float32
            np.testing.assert_allclose(made, host, atol=2e-3 if options else 2e-5)  # of decibels


def test_a_spectrogram_has_none():
    with pytest.raises(ConfigError, match="leave log_mel out of the transforms"):
        audio.DeviceLogMel()({"audio": jnp.zeros((2, 30, 80))}, None)


@pytest.mark.parametrize("alpha", [0.5, 8.0])
def test_mixup_is_the_weighted_mean_with_the_row_before(alpha):
    batch = device.Mixup(alpha)({"image": jnp.asarray(IMAGES)}, KEY)
    share = np.asarray(batch["image_share"])
    weight = share[:, None, None, None]
    np.testing.assert_allclose(batch["image"], weight * IMAGES + (1 - weight) * np.roll(IMAGES, 1, axis=0), atol=1e-6)
    np.testing.assert_array_equal(batch["image_partner"], (np.arange(64) - 1) % 64)
    assert len(np.unique(share)) == 64
    assert (share.min() < 0.1 and share.max() > 0.9) if alpha < 1 else (share.min() > 0.1 and share.max() < 0.9)
    pixels = device.Mixup(alpha)({"image": jnp.asarray(PIXELS)}, KEY)["image"]
    assert pixels.dtype == np.uint8
    np.testing.assert_allclose(pixels, 255 * np.asarray(batch["image"]), atol=0.501)


def test_cutmix_pastes_one_rectangle_and_counts_it():
    batch = device.CutMix()({"image": jnp.asarray(IMAGES)}, KEY)
    mixed, share, before = np.asarray(batch["image"]), batch["image_share"], IMAGES[batch["image_partner"]]
    for row in range(64):
        pasted = (mixed[row] != IMAGES[row]).any(-1)
        assert (mixed[row][pasted] == before[row][pasted]).all()
        assert share[row] == pytest.approx(1 - pasted.mean(), abs=0.05)  # pixels may be equal by chance
        if pasted.any():
            rows, columns = np.nonzero(pasted.any(1))[0], np.nonzero(pasted.any(0))[0]
            assert pasted[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].mean() > 0.9
    assert 0.3 < share.mean() < 0.8


def test_cutmix_removes_the_share_that_was_drawn_where_nothing_sticks_out():
    """On large pictures, the mean of what stays is that of Beta(8, 8) and what was cut off at the edges."""
    ones = jnp.zeros((256, 64, 64, 1)).at[::2].set(1.0)
    batch = device.CutMix(alpha=8.0)({"image": ones}, jax.random.key(3))
    stayed = (batch["image"] == ones).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(stayed, batch["image_share"], atol=1e-6)
    assert 0.5 < batch["image_share"].mean() < 0.75


@pytest.mark.parametrize("function", RANDOM, ids=lambda f: type(f).__name__)
def test_devices_and_jit_change_nothing_and_evaluations_are_left_alone(function):
    spread = jax.device_put(IMAGES, batch_sharding(make_mesh()))
    plain = function({"image": jnp.asarray(IMAGES)}, KEY)
    assert plain.keys() == {"image", *function.gives}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), jax.jit(function)({"image": spread}, KEY), plain
    )
    evaluation = {"image": spread}
    assert function(evaluation, None) is evaluation and function({}, None) == {}


MLPS = {
    "kind": "two_tower",
    "towers": {"a": {"kind": "mlp", "inputs": 768, "widths": [5]}, "b": {"kind": "mlp", "inputs": 3, "widths": [5]}},
    "losses": [{"kind": "mixture_contrast", "of": ["a", "b"], "with": MIXED}],
}


def mixed_and_flat(batch, rng):
    """Pictures that are mirrored and mixed, as the vectors that an MLP reads."""
    made = device.transform([device.RandomFlip(), device.CutMix()], batch, rng)
    return {**made, "a": made["image"].reshape(BATCH, -1).astype(jnp.float32) / 255}


@pytest.fixture(scope="module")
def stepped():
    """A function from micro-batch and mesh to the state and metrics after two steps; and those without either."""

    def steps(microbatch=None, mesh=None):
        problem = Problem(MLPS)
        problem.inputs = {"image", "b"}
        problem.step = make_step(
            problem.skeleton, problem.tx, problem.trainable, problem.ema, microbatch, prepare=mixed_and_flat
        )
        return problem.train(2, mesh)

    return steps, steps()


@pytest.mark.parametrize("microbatch, mesh", [(8, None), (2, None), (None, {}), (8, {"data": 4, "fsdp": 2})])
def test_pieces_and_devices_change_nothing_in_a_step(stepped, microbatch, mesh):
    steps, (whole, metrics) = stepped
    state, found = steps(microbatch, None if mesh is None else make_mesh(**mesh))
    assert_close([m["loss"] for m in found], [m["loss"] for m in metrics])
    assert_close(state.params, whole.params)


def test_a_step_is_that_of_the_batch_prepared_beforehand(stepped):
    _, (_, metrics) = stepped
    problem, batch = Problem(MLPS), next(batches(1))
    state = problem.new()
    rng = jax.random.fold_in(jax.random.wrap_key_data(state.key), 0)
    prepared = mixed_and_flat({k: jnp.asarray(batch[k]) for k in ("image", "b")}, rng)
    loss, _ = problem.skeleton.merge(state.params, state.extra).loss(prepared, None)
    assert float(metrics[0]["loss"]) == pytest.approx(float(loss), rel=1e-5)


def test_each_step_and_each_transform_has_its_own_draws():
    batch, seen = {"image": jnp.asarray(IMAGES)}, []
    for step in range(2):
        rng = jax.random.fold_in(KEY, step)
        for transforms in ([device.Mixup()], [device.RandomFlip(), device.Mixup()]):
            seen.append(np.asarray(device.transform(transforms, batch, rng)["image_share"]))
    assert len(np.unique(np.stack(seen), axis=0)) == 4
    keys = [jax.random.fold_in(KEY, place) for place in range(65)]  # of examples and losses
    drawn = device.transform([device.RandomFlip()], batch, KEY)["image"]
    others = [device.RandomFlip()(batch, key)["image"] for key in keys]
    assert not any(np.array_equal(drawn, other) for other in others)


def get_config():
    """Pictures that are mirrored and mixed, with sounds of which the device makes spectrograms."""
    c = plain(tiny.get_config())
    spec = {"image": c["data"]["source"]["spec"]["image"], "audio": {"shape": [1600]}}
    source = {"kind": "synthetic", "size": 96, "spec": spec}
    c["data"] = {"source": source, "device": [{"kind": "log_mel"}, {"kind": "random_flip"}, {"kind": "mixup"}]}
    c["task"]["towers"] = {
        "image": c["task"]["towers"]["image"],
        "audio": {"kind": "token_mlp", "length": 10, "inputs": 80, "widths": [8]},
    }
    c["task"]["losses"] = [{"kind": "mixture_contrast", "of": ["image", "audio"], "with": MIXED}]
    c["evals"] = {"retrieval": {"kind": "retrieval", "source": source, "query": "audio", "every": 2}}
    c["train"].update(steps=4, log_every=1)
    c["checkpoint"] = {"every": 2}
    return c


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    run(get_config(), folder, report=False)
    return folder


def test_a_resumed_run_is_the_same_to_the_bit(workdir, tmp_path):
    shutil.copytree(workdir, tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoints" / "4")
    run(get_config(), tmp_path / "again", report=False)
    whole, again = (tiny.parameters(folder) for folder in (workdir, tmp_path / "again"))
    assert whole.keys() == again.keys()
    jax.tree.map(np.testing.assert_array_equal, again, whole)


def test_evaluations_and_opened_weights_hear_spectrograms_of_pictures_as_they_are(workdir):
    experiment, state = restore(workdir, 4)
    batch = {k: v for k, v in experiment.loader.host_batch(0).items() if k != "index"}
    task = experiment.skeleton.merge({**state.params, **state.ema}, state.extra)
    expected = jax.jit(task.encode)({"image": batch["image"], "audio": audio.log_mel(batch["audio"], xp=np)})
    for encode in (experiment.encoder(state), Pretrained.open(workdir).encode):
        for name, x in encode(batch).items():
            np.testing.assert_allclose(x, expected[name], atol=2e-5)


def test_inspect_shows_what_the_step_sees():
    config = get_config()
    pipeline, experiment = open_pipeline(config), Experiment(**Experiment.resolve(config))
    assert experiment.flops_per_step() > 0
    seen, host = pipeline.batch(3), pipeline.loader.host_batch(3)
    rng = jax.random.fold_in(jax.random.wrap_key_data(jax.device_get(experiment.init().key)), 3)
    step = jax.jit(experiment.prepare)({k: jnp.asarray(v) for k, v in host.items() if k != "index"}, rng)
    assert seen["audio"].shape == (16, 10, 80) and not np.array_equal(seen["image"], host["image"])
    np.testing.assert_array_equal(seen["index"], host["index"])
    jax.tree.map(np.testing.assert_array_equal, {k: seen[k] for k in step}, dict(step))


@pytest.mark.parametrize(
    "parts, loss, message",
    [
        ([{"kind": "mixup"}], {"kind": "infonce"}, r"device\[0\]: no loss takes 'image_partner' and 'image_share'"),
        ([{"kind": "mixup"}, {"kind": "cutmix"}], {}, r"device\[1\]: an earlier one gives 'image_partner' already"),
        ([{"kind": "random_flip", "key": "imag"}], {}, r"device\[0\]\.key: no 'imag' in a batch; did you mean 'image'"),
        ([{"kind": "random_flop"}], {}, "did you mean 'random_flip'"),
    ],
)
def test_what_cannot_be_meant_is_said(parts, loss, message):
    config = get_config()
    config["data"]["device"] = parts
    if loss:
        config["task"]["losses"] = [{**loss, "of": ["image", "audio"]}]
    with pytest.raises(ConfigError, match=message):
        Experiment(**Experiment.resolve(config))

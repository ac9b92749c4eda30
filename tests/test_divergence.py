"""Training that goes wrong: stopped, said, and taken back."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from bigcl.divergence import LEAST, WINDOW, Alarms, Diverged, Spike, StopWhenDiverged, WatchLoss, has_jumped


def skips(pattern, *, log_every=10, max_skipped=3):
    """The step at which a run stops whose steps are taken (.) or skipped (x), or None."""
    train = types.SimpleNamespace(log_every=log_every, max_skipped=max_skipped, steps=len(pattern))
    hook, in_a_row = StopWhenDiverged(types.SimpleNamespace(train=train)), 0
    for step, mark in enumerate(pattern, start=1):
        in_a_row = in_a_row + 1 if mark == "x" else 0
        try:
            hook(step, None, {"skipped_in_a_row": jnp.asarray(in_a_row)})
        except Diverged:
            return step
    return None


@pytest.mark.parametrize(
    "pattern, stops",
    [
        ("." * 30, None),
        ("..xx.xx..." * 3, None),
        ("..xxx....." * 3, 10),  # it recovered before anybody looked
        (".........x" + "xx" + "." * 18, 20),  # from one row of the log to the next
        ("..........." + "xxx", 14),  # the last step is no multiple of 10
    ],
)
def test_skipped_steps_in_a_row_stop_the_run(pattern, stops):
    assert skips(pattern) == stops


def losses_of_a_run(seed=0, length=80):
    """A loss that falls, with noise."""
    rng = np.random.default_rng(seed)
    return list(1 + 4 * np.exp(-np.arange(length) / 20) + 0.05 * rng.normal(size=length))


@pytest.mark.parametrize("seed", range(5))
def test_only_a_jump_is_a_jump(seed):
    losses = losses_of_a_run(seed)
    for end in range(1, len(losses)):
        assert not has_jumped(losses[:end])
    assert not has_jumped([*losses[-WINDOW:], 1.0, 6.0])  # one hard batch
    assert has_jumped([*losses[-WINDOW:], 6.0, 6.0])
    assert not has_jumped([*losses[: LEAST - 1], 60.0, 60.0])  # too early to tell
    flat = [0.01] * WINDOW
    assert not has_jumped([*flat, 0.0105, 0.0105]) and has_jumped([*flat, 0.02, 0.02])


def watch(losses, *, steps=(), rewinds=1, used=0, slots=10, start=0):
    """What is said of losses at steps 5, 10, ..., and the Spike that is raised, with checkpoints at `steps`."""
    said = []
    train = types.SimpleNamespace(log_every=5, rewinds=rewinds)
    experiment = types.SimpleNamespace(train=train, checkpoint=types.SimpleNamespace(every=slots))
    rows = [{"step": 5 * (i + 1), "loss": x} for i, x in enumerate(losses[:start])]
    rows += [{"step": 5 * start, "eval/a": 1.0}, {"step": 7, "loss": 100.0}]
    checkpoints = types.SimpleNamespace(steps=lambda: sorted(steps))
    hook = WatchLoss(experiment, checkpoints, types.SimpleNamespace(say=said.append), rows)
    for i, x in enumerate(losses[start:], start=start + 1):
        try:
            hook(5 * i, types.SimpleNamespace(rewinds=jnp.asarray(used)), {"loss": jnp.asarray(x)})
        except Spike as spike:
            return said, spike
    return said, None


def test_a_jump_takes_the_run_back_to_before_the_last_good_loss():
    losses = [2.0] * 30 + [9.0] * 10  # the first high row is step 155, and it is seen at step 160
    for start in (0, 10, 31):
        said, spike = watch(losses, steps=(130, 140, 150, 155, 160), start=start)
        assert (spike.step, spike.target) == (160, 140)
        assert len(said) == 1 and "9 at step 160, where 2 was usual" in said[0] and "back to step 140" in said[0]
    assert watch(losses, steps=(133, 149), start=3)[1] is None  # those of a run that was stopped do not count


@pytest.mark.parametrize(
    "options, message",
    [
        ({"rewinds": 0}, "usual"),
        ({"used": 1}, "all train.rewinds=1 are used"),
        ({"steps": (150,)}, "no checkpoint is from before step 150"),
        ({"slots": 0}, "no checkpoint is from before step 150"),
    ],
)
def test_a_jump_is_said_once_where_the_run_cannot_go_back(options, message):
    said, spike = watch([2.0] * 30 + [9.0] * 5 + [2.0] * 5, **{"steps": (100, 140), **options})
    assert spike is None and len(said) == 1 and message in said[0]


def alarms(rows, *, max_scale=100.0, log_every=5, batch=16):
    """What is said of rows of (logit scale, gradient norms of the steps since the last row, accuracy)."""
    said = []
    train = types.SimpleNamespace(log_every=log_every, steps=10**6, batch=batch)
    hook = Alarms(types.SimpleNamespace(train=train, max_scale=max_scale), types.SimpleNamespace(say=said.append))
    step = 0
    for scale, norms, accuracy in rows:
        assert len(norms) == log_every
        for norm in norms:
            step += 1
            values = {"grad_norm": norm, "logit_scale": scale, "a_b/accuracy": accuracy}
            hook(step, None, {k: jnp.asarray(v) for k, v in values.items()})
    return said


FINE = (14.0, [1.0] * 5, 0.9)


def test_nothing_is_said_of_a_run_that_is_well():
    start = [(14.0, [50.0 / (i + 1)] * 5, 1 / 16) for i in range(20)]
    assert not alarms([*start, *[FINE] * 20])


@pytest.mark.parametrize(
    "wrong, message",
    [
        ((99.95, [1.0] * 5, 0.9), "the temperature at step 105 is at its bound 0.01"),
        ((0.5, [1.0] * 5, 0.9), "the temperature at step 105 is 2: pairs are hardly told apart"),
        ((14.0, [1.0, 1.0, 11.0, 1.0, 1.0], 0.9), "norm was 11 before step 105, where 1 was usual"),
    ],
)
def test_what_is_wrong_is_said_once_a_spell(wrong, message):
    said = alarms([*[FINE] * 20, wrong, wrong, *[FINE] * 3, wrong])
    assert len(said) == 2 and message in said[0]


def test_accuracy_that_falls_to_chance_is_said():
    lost = (14.0, [1.0] * 5, 1 / 16)
    said = alarms([lost] * 20 + [FINE] * 5 + [lost] * 10 + [FINE] * 5 + [lost] * 5)
    assert len(said) == 2 and "a_b/accuracy at step 140 is 0.062, as by chance" in said[0]


def test_a_norm_that_is_no_number_is_left_to_those_who_count_skipped_steps():
    assert not alarms([*[FINE] * 20, (14.0, [np.nan] * 5, 0.9), FINE])

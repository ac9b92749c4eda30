"""What happens beside the steps."""

import types

import jax
import jax.numpy as jnp
import pytest

from bigcl.evaluate import fitting
from bigcl.hooks import CompilationAlarm, Diverged, StopWhenDiverged


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


def test_an_evaluation_takes_the_devices_there_are():
    mesh = {"replica": 1, "data": 2, "fsdp": 4, "tensor": 1, "rules": None}
    assert fitting(mesh) == mesh
    assert fitting({**mesh, "fsdp": 64}) == {"replica": None, "data": -1, "fsdp": 1, "tensor": 1, "rules": None}


def test_a_program_compiled_in_the_middle_of_a_run_is_named():
    said = []
    experiment = types.SimpleNamespace(train=types.SimpleNamespace(log_every=10))
    meter = types.SimpleNamespace(is_paused=False)
    alarm = CompilationAlarm(experiment, types.SimpleNamespace(say=said.append), meter)

    def surprise(x):
        return x * 3

    jax.jit(surprise)(jnp.ones(7)).block_until_ready()
    alarm(10, None, {})  # before the run was warm
    alarm(20, None, {})
    assert not said
    jax.jit(surprise)(jnp.ones(11)).block_until_ready()
    alarm(30, None, {})
    meter.is_paused = True  # an evaluation
    jax.jit(surprise)(jnp.ones(13)).block_until_ready()
    alarm(40, None, {})
    assert len(said) == 1 and "between steps 20 and 30" in said[0] and "surprise" in said[0]

"""What happens beside the steps."""

import types

import jax
import jax.numpy as jnp

from bigcl.evaluate import fitting
from bigcl.hooks import CompilationAlarm


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

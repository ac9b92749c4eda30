"""What happens beside the steps."""

import time
import types

import jax
import jax.numpy as jnp

from bigcl import stages
from bigcl.evaluate import fitting
from bigcl.experiment import Experiment
from bigcl.hooks import WARM_UP, CompilationAlarm, Meter, Profile
from bigcl.log import read_rows
from bigcl.trainer import Trainer
from bigcl.watchdog import Watchdog
from tests.faults import tiny


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
    alarm.close()
    jax.jit(surprise)(jnp.ones(17)).block_until_ready()
    assert len(alarm.programs) == 0


def test_compilation_is_no_part_of_the_speed(tmp_path, monkeypatch):
    """A clock that jumps by an hour while the step is compiled."""
    late, compile_step = 0.0, Experiment.compile_step

    def slow(experiment):
        nonlocal late
        late += 3600
        return compile_step(experiment)

    clock = time.perf_counter
    monkeypatch.setattr(Experiment, "compile_step", slow)
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + late)
    config = tiny.get_config().to_dict()
    config["train"] |= {"steps": 5, "log_every": 5}
    with Watchdog(tmp_path, 0) as watchdog:
        trainer = Trainer(Experiment(**stages.resolved(config)), tmp_path, watchdog)
        trainer.run(trainer.restore_or_init())
    (row,) = (row for row in read_rows(tmp_path / "metrics.jsonl") if "ms_per_step" in row)
    assert late == 3600 and row["step"] == 5 and row["ms_per_step"] < 1e3 * 3600 / 5


def test_a_run_that_ends_within_a_trace_leaves_the_profiler_free(tmp_path):
    """For the next one of the process, such as the one after a rewind."""
    train = types.SimpleNamespace(profile=3, steps=100)
    deadlines = types.SimpleNamespace(step=60.0)
    with Watchdog(tmp_path, 0) as watchdog:
        feed = types.SimpleNamespace(waited=0.0)
        of_run = types.SimpleNamespace(train=train, deadlines=deadlines, flops_per_step=lambda: 1.0)
        for attempt in range(2):
            profile = Profile(of_run, tmp_path / str(attempt), Meter(of_run, feed, 0, watchdog))
            for step in range(WARM_UP + 1):
                profile(step, jnp.zeros(()), {})
            assert profile.traces
            profile.close()
            assert list((tmp_path / str(attempt)).rglob("*.xplane.pb"))

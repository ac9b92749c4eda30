"""Schedules at the steps where something changes."""

import jax
import numpy as np
import pytest

from bigcl import registry, schedules
from bigcl.registry import ConfigError

KINDS = sorted(registry.REGISTRIES["schedule"])


def at(part, step, steps=1000):
    return float(registry.build("schedule", part, steps=steps)(step))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind(kind):
    schedule = registry.build("schedule", {"kind": kind, "warmup": 100}, steps=1000)
    values = np.array([schedule(i) for i in range(1000)])
    np.testing.assert_allclose(values[:101], np.arange(1, 102) / 101, rtol=1e-6)
    assert values.max() == 1 and values.min() > 0
    assert (np.diff(values[100:]) <= 0).all()
    np.testing.assert_allclose(jax.jit(schedule)(np.int32(700)), values[700], rtol=1e-6)


@pytest.mark.parametrize(
    "part, step, value",
    [
        ({"kind": "constant", "warmup": 0}, 0, 1),
        ({"kind": "constant"}, 999, 1),
        ({"kind": "linear", "warmup": 200}, 600, 0.5),
        ({"kind": "linear", "warmup": 0, "final": 0.2}, 1000, 0.2),
        ({"kind": "cosine", "warmup": 200}, 600, 0.5),
        ({"kind": "cosine", "warmup": 200}, 400, 0.5 * (1 + np.cos(np.pi / 4))),
        ({"kind": "cosine", "warmup": 0.2, "final": 0.1}, 1000, 0.1),
        ({"kind": "stairs", "warmup": 0, "every": 250, "factor": 0.5}, 249, 1),
        ({"kind": "stairs", "warmup": 0, "every": 250, "factor": 0.5}, 750, 0.125),
        ({"kind": "stairs"}, 600, 0.01),
        ({"kind": "rsqrt", "warmup": 100, "timescale": 200}, 700, 0.5),
        ({"kind": "rsqrt", "warmup": 100, "timescale": 200, "cooldown": 600}, 700, 0.25),
        ({"kind": "rsqrt", "warmup": 100, "cooldown": 0.5}, 1000, 0),
        ({"kind": "wsd", "warmup": 100}, 800, 1),
        ({"kind": "wsd", "warmup": 100, "cooldown": 400}, 700, 0.5),
        ({"kind": "wsd"}, 1000, 0),
    ],
)
def test_key_points(part, step, value):
    assert at(part, step) == pytest.approx(value, abs=1e-6)


def test_default_warmup_grows_with_the_run_to_a_limit():
    assert schedules.default_warmup(450) == 45
    assert schedules.default_warmup(1_000_000) == 10_000
    assert at({"kind": "constant"}, 99) < 1 == at({"kind": "constant"}, 100)


@pytest.mark.parametrize(
    "part",
    [
        {"kind": "wsd", "warmup": 900, "cooldown": 200},
        {"kind": "cosine", "warmup": 1001},
        {"kind": "cosine", "warmup": -1},
    ],
)
def test_lengths_that_do_not_fit(part):
    with pytest.raises(ConfigError, match="do not fit into 1000 steps"):
        registry.build("schedule", part, steps=1000)


@pytest.mark.parametrize("part", [{"every": 0}, {"factor": 0.0}, {"factor": 1.5}], ids=str)
def test_stairs_that_lead_nowhere(part):
    with pytest.raises(ConfigError, match="expected every > 0 and 0 < factor <= 1"):
        registry.build("schedule", {"kind": "stairs", **part}, steps=1000)


def test_unknown_argument():
    with pytest.raises(ConfigError, match="did you mean 'warmup'"):
        registry.build("schedule", {"kind": "cosine", "warm_up": 3}, steps=10)

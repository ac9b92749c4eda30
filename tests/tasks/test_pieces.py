"""Every kind of task in micro-batches: the step of the whole batch, with the same random draws."""

import jax
import numpy as np
import pytest

from bigcl import registry
from bigcl.state import make_step
from tests.problems import BATCH, Problem, assert_close
from tests.tasks import test_finite_tokens, test_fusion, test_mixed_features


def noisy(part, **options):
    """With everything random that its image towers and its fusion have."""
    towers = {k: {**t, "dropout": 0.2} if t["kind"] in ("vit", "text") else t for k, t in part["towers"].items()}
    if "fusion" in part:
        options["fusion"] = {**part["fusion"], "dropout": 0.2}
    return {**part, "towers": towers, **options}


PARTS = {
    "fusion": noisy(test_fusion.PART),
    "finite_tokens": noisy(test_finite_tokens.PART),
    "mixed_features": noisy(test_mixed_features.PART),
}


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (BATCH, 16, 16, 3), np.uint8)
    return {
        "image": picture,
        "ssl": picture[::-1],
        "text": rng.integers(1, 10, (BATCH, 6), np.int32),
        "answer": rng.integers(0, 10, (BATCH, 2), np.int32),
        "label": rng.integers(0, 100, BATCH, np.int32),
    }


def test_every_kind_of_task_is_here():
    """But for the one that tests/test_state.py has, on meshes too."""
    assert {"two_tower", *PARTS} == registry.REGISTRIES["task"].keys()


@pytest.mark.parametrize("kind", PARTS)
def test_pieces_give_the_step_of_the_whole_batch(kind, batch):
    """Parameters after a step, and what is logged of it."""
    problem = Problem(PARTS[kind])
    start = jax.jit(problem.new)()
    whole, logged = jax.jit(problem.step)(start, batch)
    assert sum(float(abs(whole.params[k] - v).max()) > 0 for k, v in start.params.items()) > len(start.params) / 2
    step = make_step(problem.skeleton, problem.tx, problem.trainable, problem.ema, microbatch=8)
    pieces, found = jax.jit(step)(start, batch)
    assert_close((pieces.params, found), (whole.params, logged))

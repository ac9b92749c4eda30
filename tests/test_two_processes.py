"""Two real processes of two devices each compute what one device does: losses, all gradients, training steps."""

import os
import pathlib
import socket
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigcl.losses import infonce, sigmoid
from tests.problems import TRANSFORMERS, Problem, assert_close

ROOT = pathlib.Path(__file__).parent.parent
PROCESSES, STEPS, TIMEOUT = 2, 2, 300
LOSSES = {
    "infonce": lambda za, zb, weight, scale, bias, known: infonce(za, zb, scale, label_smoothing=0.1),
    "sigmoid": lambda za, zb, weight, scale, bias, known: sigmoid(za, zb, scale, bias),
    "infonce of known rows": lambda za, zb, weight, scale, bias, known: infonce(za, zb, scale, weight=weight, **known),
    "sigmoid of known rows": lambda za, zb, weight, scale, bias, known: sigmoid(
        za, zb, scale, bias, weight=weight, **known
    ),
}
EXCHANGES = {"gather": 2**40, "ring": 0}
"""The forms of exchange, each with the bytes below which columns are gathered."""


def inputs() -> tuple[Any, ...]:
    """Unit rows of the global batch and their weights, scale and bias, and what else is known of the rows."""
    rng = np.random.default_rng(0)
    za, zb = rng.normal(size=(2, 24, 8)).astype(np.float32)
    za, zb = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (za, zb))
    known = {"labels": rng.integers(0, 9, 24).astype(np.int32), "mask": np.arange(24) % 5 != 2}
    return za, zb, rng.random(24).astype(np.float32), np.float32(9.0), np.float32(-2.0), known


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def launch(worker: str, process: int, port: int, folder: pathlib.Path) -> subprocess.Popen:
    """Starts one process; what it prints goes to a file, so that a full pipe never holds it up."""
    command = [sys.executable, "-m", f"tests.workers.{worker}", f"localhost:{port}", str(process)]
    command.append(str(folder / "result"))
    cache = {"JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir}
    with (folder / f"{process}.log").open("w") as log:
        return subprocess.Popen(command, cwd=ROOT, env=os.environ | cache, stdout=log, stderr=subprocess.STDOUT)


def together(worker: str, folder: pathlib.Path) -> pathlib.Path:
    """Where the processes of a worker wrote what they found; none of them outlives this call."""
    port = free_port()
    processes = [launch(worker, i, port, folder) for i in range(PROCESSES)]
    try:
        deadline = time.monotonic() + TIMEOUT
        while any(p.poll() is None for p in processes) and time.monotonic() < deadline:
            if any(p.poll() for p in processes):  # one has failed: the other would wait for it
                break
            time.sleep(0.1)
    finally:
        codes = [p.poll() for p in processes]
        for p in processes:
            p.kill()
            p.wait()
    logs = "\n".join((folder / f"{i}.log").read_text()[-3000:] for i in range(PROCESSES))
    assert codes == [0] * PROCESSES, f"exit codes {codes} (None: killed after {TIMEOUT} s)\n{logs}"
    return folder / "result"


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> dict[str, np.ndarray]:
    """What the processes of `workers/train.py` found."""
    with np.load(together("train", tmp_path_factory.mktemp("processes"))) as file:
        return dict(file)


def group(result: dict[str, np.ndarray], name: str) -> list[np.ndarray]:
    """The arrays that the processes wrote under a name, in order."""
    return [result[f"{name}/{i}"] for i in range(sum(k.startswith(f"{name}/") for k in result))]


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("name", LOSSES)
def test_losses_equal_those_of_one_device(result, name, exchange):
    expected = jax.jit(jax.value_and_grad(LOSSES[name], argnums=range(5)))(*jax.tree.map(jnp.asarray, inputs()))
    found = group(result, f"{name}-{exchange}")
    assert len(found) == 6
    assert_close(found, jax.tree.leaves(expected))


def test_training_equals_that_of_one_device(result):
    """In one piece, and in pieces of the batch with the columns in a ring."""
    expected = jax.tree.leaves(Problem(TRANSFORMERS).train(STEPS))
    assert_close(group(result, "train"), expected)
    assert_close(group(result, "pieces"), expected)


def test_all_hear_what_each_process_says(result):
    assert [part.tobytes() for part in group(result, "said")] == [b"", b"abc"]
    assert [part.tobytes() for part in group(result, "silent")] == [b"", b""]

"""What a checkpoint costs: `python -m benchmarks.save [--size L/14] [--rounds 5] [--folder /data/tmp]`.

The state of a CLIP model with AdamW, filled with random numbers, which hardly compress, is saved as a run saves it.
Seconds that the loop stands still, seconds until all is on the disk, seconds to restore, and the memory of the
process at its highest beside that of the state. `--tiny` is a model of seconds, for tests. One JSON line.
"""

from bigcl import host

if __name__ == "__main__":
    host.prepare()

import argparse
import json
import pathlib
import resource
import statistics
import tempfile
import time

import jax
import jax.numpy as jnp

from bigcl.checkpoint import Checkpoints, host_bytes
from bigcl.config import plain
from bigcl.experiment import Experiment
from bigcl.state import TrainState
from configs import clip


def random_state(shapes: TrainState) -> TrainState:
    """Normal numbers in the place of floats, zeros in that of integers."""

    def fill(key: jax.Array, x: jax.ShapeDtypeStruct) -> jax.Array:
        real = jnp.issubdtype(x.dtype, jnp.floating)
        return jax.random.normal(key, x.shape, x.dtype) if real else jnp.zeros(x.shape, x.dtype)

    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    return jax.tree.unflatten(tree, [fill(k, x) for k, x in zip(keys, leaves, strict=True)])


def peak() -> int:
    """Bytes that the process has held at most."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="L/14", choices=clip.SIZES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", help="where to write; default: a temporary one")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    host.configure_jax()
    config = plain(clip.get_config("smoke" if args.tiny else f"size={args.size},batch=64"))
    shapes = Experiment(**config, devices=jax.devices()).state_shapes
    state = jax.block_until_ready(jax.device_put(random_state(shapes), jax.tree.map(lambda x: x.sharding, shapes)))
    before, blocked, written = peak(), [], []
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        checkpoints = Checkpoints(pathlib.Path(folder) / "checkpoints")
        checkpoints.prepare(shapes)  # as a run does while it compiles its step
        for step in range(args.rounds + 1):
            began = time.perf_counter()
            checkpoints.save(step, state)
            blocked.append(time.perf_counter() - began)
            checkpoints.manager.wait_until_finished()
            written.append(time.perf_counter() - began)
        after, bytes_of_state, copied = peak(), sum(x.nbytes for x in jax.tree.leaves(state)), host_bytes(state)
        layout = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        del state  # as in a run, which holds none while it restores
        began = time.perf_counter()
        jax.block_until_ready(checkpoints.restore(layout))
        restored = time.perf_counter() - began
        checkpoints.close()
    result = {
        "benchmark": "save",
        "size": "tiny" if args.tiny else args.size,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "jax": jax.__version__,
        "state_bytes": bytes_of_state,
        "save_host_bytes": copied,
        "peak_beside_state_bytes": after - before,
        "first_blocked_seconds": blocked[0],
        "blocked_seconds": statistics.median(blocked[1:]),
        "written_seconds": statistics.median(written[1:]),
        "restored_seconds": restored,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

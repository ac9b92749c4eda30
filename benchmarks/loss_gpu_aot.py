"""What the loss moves on a GPU that is not at hand: `python -m benchmarks.loss_gpu_aot [--gpu h200] [--dims 512 1024]
[--dtype bfloat16] [--batch 8192]`.

Compiles value and gradient ahead of time (extra `gpu-aot`) and adds up what its kernels read and write, whether HBM
serves them or the L2 cache, which holds a tile. One JSON line for each loss and width, for 2048 x 2048 pairs:

- forward_mb, gradient_mb: megabytes of the value alone and of what the gradient adds,
- moved_us: microseconds that these take at the rate of HBM (of the L2: fewer),
- products_us: microseconds of the four matrix products at the chip's peak, of bfloat16 or of its float32 units,
- temporaries_mib: of loss and gradient at that batch.
"""

import argparse
import itertools
import json
from typing import Any

TILE = 2048


def main() -> None:
    """Nothing runs but the compiler."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", default="h200")
    parser.add_argument("--losses", nargs="+", default=["infonce", "sigmoid"])
    parser.add_argument("--dims", nargs="+", type=int, default=[512])
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batch", type=int, default=8192)
    args = parser.parse_args()
    for loss, dim in itertools.product(args.losses, args.dims):
        print(json.dumps(measure(args.gpu, loss, dim, args.dtype, args.batch)), flush=True)


def measure(gpu: str, loss: str, dim: int, dtype: str, batch: int) -> dict[str, Any]:
    """One line of the table."""
    import jax

    jax.config.update("jax_platforms", "cpu")  # nothing runs, whatever this machine has
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from bigcl import losses
    from bigcl.chips import chip
    from bigcl.planning.gpus import GPUS, compiler_options
    from bigcl.planning.hlo import Module
    from bigcl.planning.topology import devices_of
    from bigcl.planning.traffic import hbm_bytes

    devices = devices_of(f"{gpu}:1")
    where = NamedSharding(Mesh(devices, ("data",)), PartitionSpec())
    z = jax.ShapeDtypeStruct((batch, dim), dtype, sharding=where)
    number = jax.ShapeDtypeStruct((), "float32", sharding=where)
    arguments = (z, z, number) if loss == "infonce" else (z, z, number, number)
    value = getattr(losses, loss)
    tiles = (batch / TILE) ** 2
    moved, memory = [], None
    for function in (value, jax.value_and_grad(value, tuple(range(len(arguments))))):
        program = jax.jit(function).lower(*arguments).compile(compiler_options(devices))
        moved.append(hbm_bytes(Module(program.as_text())) / tiles)
        memory = program.memory_analysis().temp_size_in_bytes
    figures = chip(GPUS[gpu].kind)
    assert figures is not None and memory is not None
    peak = GPUS[gpu].float32_tflops if dtype == "float32" else figures.tflops
    return {
        "gpu": GPUS[gpu].kind,
        "loss": loss,
        "dim": dim,
        "dtype": dtype,
        "batch": batch,
        "forward_mb": round(moved[0] / 1e6, 1),
        "gradient_mb": round((moved[1] - moved[0]) / 1e6, 1),
        "moved_us": round(moved[1] / figures.bandwidth * 1e6, 1),
        "products_us": round(4 * 2 * TILE**2 * dim / (peak * 1e12) * 1e6, 1),
        "temporaries_mib": round(memory / 2**20, 1),
        "version": f"jax {jax.__version__}",
    }


if __name__ == "__main__":
    main()

"""What the loss costs on TPU chips that are not at hand: `python benchmarks/loss_tpu_aot.py [--chips v5e v6e]
[--losses infonce sigmoid] [--dtypes bfloat16] [--dims 512] [--batch 8192]`.

Compiles value and gradient ahead of time (extra `tpu-aot`, Linux) and adds up the cycles of the compiler's own schedule
of each operation: its instruction bundles and the waits between them, times the steps of its pipeline, times the trips
of the loops around it. So matrix units, vector units and vector memory count as they will run; waiting for HBM beyond
what the schedule hides, and gaps between operations, some ten for each tile, do not. One JSON line for each case:

- forward, gradient: cycles for 2048 x 2048 pairs, of the value alone and of what the gradient adds,
- products: cycles of the matrix products among them at the chip's peak: one forward, three for the gradient, which
  computes logits anew; six passes each for float32,
- us: microseconds for those pairs, forward and gradient, at the chip's clock,
- tiles_in_hbm: operations with a [2048, 2048] result outside of vector memory.
"""

import argparse
import itertools
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from bigcl.planning.hlo import Array, Instruction, Module
from bigcl.planning.topology import devices_of

CHIPS = {"v5e": (4 * 128 * 128, 1.5e9), "v6e": (4 * 256 * 256, 1.75e9)}
"""Multiply-adds a cycle in bfloat16, cycles a second: 197 and 918 TFLOP/s."""

TILE = 2048


def main() -> None:
    """Each case is a process of its own, since libtpu reads its flags once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chips", nargs="+", default=["v5e", "v6e"])
    parser.add_argument("--losses", nargs="+", default=["infonce", "sigmoid"])
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16"])
    parser.add_argument("--dims", nargs="+", type=int, default=[512])
    parser.add_argument("--batch", type=int, default=8192)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measure(**json.loads(args.case))))
        return
    for case in itertools.product(args.chips, args.losses, args.dtypes, args.dims):
        named = dict(zip(("chip", "loss", "dtype", "dim"), case, strict=True), batch=args.batch)
        command = [sys.executable, __file__, "--case", json.dumps(named)]
        env = {**os.environ, "JAX_PLATFORMS": "cpu"}
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL, env=env)


def measure(chip: str, loss: str, dtype: str, dim: int, batch: int) -> dict:
    """One line of the table."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LIBTPU_INIT_ARGS"] = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"
        cycles = {}
        for name, program in programs(chip, loss, dtype, dim, batch):
            cycles[name] = total_cycles(program, pathlib.Path(folder)) * TILE**2 / batch**2
            for file in pathlib.Path(folder).iterdir():
                file.unlink()
    multiply_adds, clock = CHIPS[chip]
    passes = 6 if dtype == "float32" else 1
    return {
        **{"chip": chip, "loss": loss, "dtype": dtype, "dim": dim, "batch": batch},
        "forward": round(cycles["value"]),
        "gradient": round(cycles["both"] - cycles["value"]),
        "products": round(4 * passes * TILE**2 * dim / multiply_adds),
        "us": round(cycles["both"] / clock * 1e6, 1),
        "tiles_in_hbm": sum(any(map(is_tile_in_hbm, i.results)) for _, i in operations(program)),
    }


def is_tile_in_hbm(array: Array) -> bool:
    """Whether it is all pairs of a tile, outside of vector memory."""
    return array.dims == (TILE, TILE) and array.space == 0


def programs(chip: str, loss: str, dtype: str, dim: int, batch: int) -> Iterator[tuple[str, Module]]:
    """The compiled programs of the value, and of value and gradient, one after the other."""
    import jax
    import jax.numpy as jnp

    from bigcl import losses

    where = jax.sharding.SingleDeviceSharding(devices_of(f"{chip}:2x2")[0])
    z, number = (
        jax.ShapeDtypeStruct(s, t, sharding=where) for s, t in (((batch, dim), jnp.dtype(dtype)), ((), jnp.float32))
    )
    arguments = (z, z, number, number)[: 3 if loss == "infonce" else 4]
    value = getattr(losses, loss)
    both = jax.value_and_grad(value, argnums=tuple(range(len(arguments))))
    for name, function in (("value", value), ("both", both)):
        yield name, Module(jax.jit(function).lower(*arguments).compile().as_text())


def operations(program: Module) -> Iterator[tuple[float, Instruction]]:
    """How often each operation of a program runs, and the operation; those inside of a kernel are none."""
    for computation, i in program.instructions():
        if computation not in program.fused:
            yield program.runs[computation], i


def total_cycles(program: Module, dump: pathlib.Path) -> float:
    """Scheduled cycles of a program."""
    return sum(times * operation_cycles(i.name, i.text, dump) for times, i in operations(program))


def operation_cycles(name: str, text: str, dump: pathlib.Path) -> int:
    """Cycles of one operation: all its bundles once, those of its pipeline's body once for each step."""
    schedules = [f for f in dump.glob(f"*-{name}-*-final_bundles.txt") if "schedule-analysis" not in f.name]
    if not schedules:
        return 0  # it is no more than a name of another's result
    bundles = [b for b in schedules[0].read_text().splitlines() if re.match(r"\s*(0x[0-9a-f]+|0)\s", b)]
    with_waits = next(dump.glob(f"*-{name}-*-pre-delay_hlo-static-per-bundle-utilization.txt"))
    waits = max(0, len(with_waits.read_text().splitlines()) - 3 - len(bundles))
    loops = [len(list(run)) for inside, run in itertools.groupby(bundles, lambda b: ">" in b.split("{")[0]) if inside]
    bounds = re.search(r'"iteration_bounds":\[([^\]]*)\]', text)
    steps = math.prod(map(int, re.findall(r"\d+", bounds[1]))) if bounds else 1
    return len(bundles) + waits + (steps - 1) * (max(loops) + waits if loops else 0)


if __name__ == "__main__":
    main()

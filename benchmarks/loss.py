r"""Time and memory of a contrastive loss with its gradient against the batch size, in every form that there is, beside
open_clip's ClipLoss and SigLipLoss.

    python -m benchmarks.loss --batches 1024,4096,16384 --loss infonce

Each form runs in a process of its own, all of them in turn; JSON lines go to standard output, one for each form and
batch. `matmuls` is the time of the matrix products that a form must do, measured in the same run one tile at a time:
logits, both gradients and, for a form that keeps no logits, the logits again. `over_matmuls` is the form's time over
that. `temporaries_mib` is what the compiled program allocates beside inputs and outputs, `peak_mib` what the process or
the GPU was seen to hold beyond what it held before. `--devices 8` emulates devices on a CPU, for `gather` and `ring`.
"""

from bigcl import host

if __name__ == "__main__":
    host.prepare()

import contextlib
import ctypes
import functools
import importlib
import importlib.metadata
import inspect
import math
import pathlib
import re
import sys
from collections.abc import Callable
from typing import Any

from benchmarks import peers

TILE = 2048
"""Rows and columns of the tiles that are measured and, where it takes chunks, of open_clip's."""
RECOMPUTES = {"dense": 0, "streamed": 1, "gather": 1, "ring": 1, "open_clip": 0, "open_clip_chunked": 0}
"""The forms, and how often each computes the logits again."""


def problem(args: Any, batch: int) -> tuple[Any, Any]:
    """Two sides of normalised embeddings."""
    import numpy as np

    sides = np.random.default_rng(0).standard_normal((2, batch, args.width), np.float32)
    a, b = sides / np.linalg.norm(sides, axis=-1, keepdims=True)
    return a, b


def in_jax(args: Any, form: str) -> Callable[..., dict[str, Any]]:
    """bigcl's losses; `dense`: the textbook form, which keeps all logits."""
    import jax
    import jax.numpy as jnp
    import optax

    from bigcl import losses
    from bigcl.losses import streaming
    from bigcl.mesh import batch_sharding, make_mesh, replicated

    if args.devices:
        jax.config.update("jax_num_cpu_devices", args.devices)
    host.configure_jax()
    mesh = make_mesh()
    facts = {"version": f"jax {jax.__version__}", "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}"}
    if form in ("gather", "ring"):
        if jax.device_count() == 1:
            return functools.partial(skip, reason="one device")
        streaming.GATHER_BYTES = {"gather": sys.maxsize, "ring": 0}[form]

    def dense(a: Any, b: Any, scale: Any, bias: Any = None) -> Any:
        logits = streaming.logits(a, b, scale, bias)
        if bias is not None:
            return -jax.nn.log_sigmoid(logits * (2 * jnp.eye(len(a)) - 1)).sum() / len(a)
        labels = jnp.arange(len(a))
        both = [optax.softmax_cross_entropy_with_integer_labels(x, labels).mean() for x in (logits, logits.T)]
        return sum(both) / 2

    loss: Any = dense if form == "dense" else getattr(losses, args.loss)
    shared = [jnp.asarray(10.0), jnp.asarray(-10.0)][: 2 if args.loss == "sigmoid" else 1]

    @functools.cache
    def compiled(batch: int) -> tuple[Any, Any]:
        sides = jax.device_put([jnp.asarray(x, args.dtype) for x in problem(args, batch)], batch_sharding(mesh))
        inputs = (*sides, *jax.device_put(shared, replicated(mesh)))
        with jax.set_mesh(mesh):
            return jax.jit(jax.value_and_grad(loss, tuple(range(len(inputs))))).lower(*inputs).compile(), inputs

    def answer(batch: int, warm: bool) -> dict[str, Any]:
        program, inputs = compiled(batch)
        outputs: list[Any] = []

        def run() -> None:
            outputs[:] = jax.block_until_ready(program(*inputs))

        if not warm:
            return peers.timed(run, args.repeat)
        peak = resident_growth(run) if jax.default_backend() == "cpu" else device_growth(run, jax.devices()[0])
        temporaries = program.memory_analysis().temp_size_in_bytes / 2**20
        return {**facts, "value": float(outputs[0]), "temporaries_mib": temporaries, "peak_mib": peak}

    return answer


def in_torch(args: Any, form: str) -> Callable[..., dict[str, Any]]:
    """open_clip's losses."""
    importlib.import_module("tests.interop.conftest")  # lets torchvision for CUDA load beside a CPU build of torch
    import torch
    from open_clip.loss import ClipLoss, SigLipLoss

    chunk = {"chunk_size": TILE} if form == "open_clip_chunked" else {}
    if chunk and (args.loss != "sigmoid" or "chunk_size" not in inspect.signature(SigLipLoss).parameters):
        return functools.partial(skip, reason="this loss of this open_clip has no chunks")
    loss = ClipLoss() if args.loss == "infonce" else SigLipLoss(**chunk)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = False  # as bigcl's losses

    def answer(batch: int, warm: bool) -> dict[str, Any]:
        dtype = getattr(torch, args.dtype)
        inputs = [torch.tensor(x, dtype=dtype, device=device, requires_grad=True) for x in problem(args, batch)]
        shared = (10.0, -10.0)[: 2 if args.loss == "sigmoid" else 1]
        inputs += [torch.tensor(x, dtype=dtype, device=device, requires_grad=True) for x in shared]
        values: list[float] = []

        def run() -> None:
            for x in inputs:
                x.grad = None
            value = loss(*inputs)
            value.backward()
            values[:] = [value.item()]  # waits for the forward pass
            if device == "cuda":
                torch.cuda.synchronize()

        if not warm:
            return peers.timed(run, args.repeat)
        facts = {
            "version": f"open_clip {importlib.metadata.version('open_clip_torch')}, torch {torch.__version__}",
            "device": torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} x cpu",
        }
        if device == "cpu":
            peak = resident_growth(run)
        else:
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            run()
            peak = (torch.cuda.max_memory_allocated() - before) / 2**20
        return {**facts, "value": values[0], "peak_mib": peak}

    return answer


def matmuls(args: Any, form: str) -> Callable[..., dict[str, Any]]:
    """The products of one tile: logits, and the gradient of either side."""
    import jax
    import jax.numpy as jnp

    host.configure_jax()
    exact = None if args.dtype == "bfloat16" else jax.lax.Precision.HIGHEST  # as bigcl's losses

    @functools.partial(jax.jit, static_argnums=0)
    def repeated(equation: str, x: Any, y: Any, count: Any) -> Any:
        """So many products within one program: on a GPU one takes less time than to ask for it."""

        def product(x: Any) -> Any:
            return jnp.einsum(equation, x, y, precision=exact, preferred_element_type=jnp.float32)

        def again(_: Any, carry: tuple[Any, Any]) -> tuple[Any, Any]:
            return jax.lax.optimization_barrier((carry[0], product(carry[0])))  # each waits for the one before it

        return jax.lax.fori_loop(1, count, again, (x, product(x)))[1]

    def answer(batch: int, warm: bool) -> dict[str, Any]:
        a, b = (jnp.asarray(x, args.dtype) for x in problem(args, min(batch, TILE)))
        g = jnp.ones((len(a), len(b)), args.dtype)
        times = []
        for equation, x, y in (("md,nd->mn", a, b), ("mn,nd->md", g, b), ("mn,md->nd", g, a)):
            count = max(1, round(args.repeat * (batch / len(a)) ** 2))  # as many as the whole batch has tiles
            jax.block_until_ready(repeated(equation, x, y, 1))

            def run(inputs: Any = (equation, x, y, count)) -> None:
                jax.block_until_ready(repeated(*inputs))

            times.append(0.0 if warm else peers.timed(run, 1)["seconds"] / count * (batch / len(a)) ** 2)
        sharing = 1 if jax.default_backend() == "cpu" else jax.device_count()  # emulated devices share the cores
        return {"products": [t / sharing for t in times]}

    return answer


def skip(*, batch: int, warm: bool, reason: str) -> dict[str, Any]:
    """The answer of a form that is not to be had."""
    del batch, warm
    return {"skipped": reason}


def resident_growth(run: Callable[[], None]) -> float | None:
    """MiB by which this process grows at the most (Linux)."""
    if sys.platform != "linux":
        return None
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before counts as free
    folder = pathlib.Path("/proc/self")
    (folder / "clear_refs").write_text("5")  # the peak starts from what is resident now

    def resident(key: str) -> int:
        found = re.search(rf"{key}:\s+(\d+) kB", (folder / "status").read_text())
        assert found
        return int(found[1])

    before = resident("VmRSS")
    run()
    return (resident("VmHWM") - before) / 1024


def device_growth(run: Callable[[], None], device: Any) -> float | None:
    """MiB by which the use of a device grows at the most; batches come in ascending order, so that the peak of the
    process is this one's."""
    if not (stats := device.memory_stats()):
        return None
    before = stats["bytes_in_use"]
    run()
    return (device.memory_stats()["peak_bytes_in_use"] - before) / 2**20


PEERS: dict[str, Callable[..., Any]] = {
    "matmuls": matmuls,
    **{form: in_torch if form.startswith("open_clip") else in_jax for form in RECOMPUTES},
}


def main() -> None:
    """Measures and prints."""
    parser = peers.parser(__doc__, PEERS)
    parser.add_argument("--loss", choices=("infonce", "sigmoid"), default="infonce")
    parser.add_argument("--batches", default="1024,4096,16384")
    parser.add_argument("--width", type=int, default=512, help="of an embedding")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the embeddings")
    parser.add_argument("--forms", default=",".join(RECOMPUTES))
    parser.add_argument("--repeat", type=int, default=3, help="times that a form runs when asked")
    parser.add_argument("--devices", type=int, help="devices to emulate on a CPU")
    args = parser.parse_args()
    if args.tiny:
        args.batches, args.width = "16,48", 8
    if args.peer:
        return peers.serve(PEERS[args.peer](args, args.peer))
    what = {"benchmark": "loss", **{k: getattr(args, k) for k in ("loss", "width", "dtype", "tiny")}}
    with contextlib.ExitStack() as stack:
        running = {}
        for form in ("matmuls", *args.forms.split(",")):
            if form.startswith("open_clip") and (reason := peers.missing("torch", "open_clip")):
                peers.report(**what, form=form, skipped=reason)
            else:
                running[form] = stack.enter_context(peers.Peer("benchmarks.loss", form))
        for batch in sorted(int(b) for b in args.batches.split(",")):
            measure(batch, running, args.rounds, what)


def measure(batch: int, running: dict[str, peers.Peer], rounds: int, what: dict[str, Any]) -> None:
    """One batch size: everything once for the compiler and the memory, then in turn for the time."""
    facts = {form: peer.ask(batch=batch, warm=True) for form, peer in running.items()}
    for form in [f for f in running if "skipped" in facts[f]]:
        running.pop(form)
        peers.report(**what, form=form, **facts[form])
    times = [{form: peer.ask(batch=batch, warm=False) for form, peer in running.items()} for _ in range(rounds)]
    logits, *gradients = (min(t["matmuls"]["products"][i] for t in times) for i in range(3))
    for form in list(running)[1:]:
        needed = 1e3 * ((1 + RECOMPUTES[form]) * logits + math.fsum(gradients))
        mine = peers.summary([t[form] for t in times])
        ratio = mine["best_ms"] / needed
        peers.report(**what, form=form, batch=batch, **facts[form], **mine, matmuls_ms=needed, over_matmuls=ratio)


if __name__ == "__main__":
    main()

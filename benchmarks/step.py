r"""A training step of CLIP against open_clip in PyTorch: forward, backward, AdamW, same shapes and precision.

    python -m benchmarks.step --model B/32 --batch 32

bigcl's side is the recipe configs/clip.py as the trainer runs it, on synthetic data and with the towers' own policy of
what is kept for the gradient, not the recipe's, which saves memory above all. open_clip's is its training loop's step:
the same sizes, its own loss, parameter groups and clamp, autocast for bfloat16. The peers are measured alternately, a
few steps each; JSON lines go to standard output: one for each peer, then the ratio. Needs open_clip_torch for the
comparison, and without it measures bigcl alone.
"""

from bigcl import host

if __name__ == "__main__":
    host.prepare()

import contextlib
import importlib
import importlib.metadata
import math
import statistics
from collections.abc import Callable
from typing import Any

from benchmarks import peers


def recipe(args: Any) -> dict[str, Any]:
    """configs/clip.py at the size that is measured, fed with random pictures and texts."""
    from bigcl.config import plain
    from configs import base, clip

    config = clip.get_config(f"size={args.model},batch={args.batch}")
    if args.tiny:
        config = base.smoke(config)
    image, text = config.task.towers.image, config.task.towers.text
    for tower in (image, text):
        del tower.remat
        tower.activation, tower.attention = args.activation, args.attention
    pixels, words = [image.image_size, image.image_size, 3], [text.length]
    spec = {
        "image": {"shape": pixels, "dtype": "uint8"},
        "text": {"shape": words, "dtype": "int32", "high": text.vocab},
    }
    config.train = {"steps": 10_000, "batch": args.batch, "dtype": args.dtype}
    config.tokenizer, config.checkpoint = None, {}
    config.data = {"source": {"kind": "synthetic", "spec": spec}}
    return plain(config)


def bigcl(args: Any) -> Callable[..., dict[str, Any]]:
    """The step of the trainer."""
    import jax

    from bigcl import flops
    from bigcl.data.feed import Feed
    from bigcl.experiment import Experiment
    from bigcl.mesh import batch_sharding

    host.configure_jax()
    experiment = Experiment(**recipe(args))
    step, state = experiment.compile_step(), experiment.init()
    feed = Feed(experiment.loader.batches(0), batch_sharding(experiment.mesh))
    batch = feed.take()
    feed.close()
    facts = {
        "version": f"jax {jax.__version__}",
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "parameters": sum(x.size for x in state.params.values()),
        "flops": experiment.flops_per_step(),
        "peak_tflops": flops.peak_tflops(),
    }

    def steps(count: int) -> dict[str, Any]:
        def run() -> None:
            nonlocal state
            for _ in range(count):
                state, metrics = step(state, batch)
            loss.append(float(metrics["loss"]))
            jax.block_until_ready(state)

        loss: list[float] = []
        return {**facts, **peers.timed(run, 1), "loss": loss[-1]}

    return steps


def open_clip(args: Any) -> Callable[..., dict[str, Any]]:
    """The step of open_clip_train, without what it does for logs."""
    importlib.import_module("tests.interop.conftest")  # lets torchvision for CUDA load beside a CPU build of torch
    import torch
    from open_clip import ClipLoss
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    from bigcl.towers import layers, text, vit

    config = recipe(args)
    image_part, text_part = (config["task"]["towers"][k] for k in ("image", "text"))
    sizes = ("width", "depth", "heads", "mlp_width")

    def resolved(part: dict[str, Any], variants: Any, name: str | None) -> dict[str, Any]:
        width, depth, heads, hidden = layers.resolve_sizes("", variants, name, *map(part.get, sizes))
        return {"width": width, "layers": depth, "heads": heads, "mlp_ratio": hidden / width}

    name, patch = vit.split_variant(image_part["variant"], image_part.get("patch"))
    vision = resolved(image_part, vit.VARIANTS, name)
    vision["head_width"] = vision["width"] // vision.pop("heads")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True  # as open_clip_train, and as JAX
    torch.manual_seed(0)
    model = CLIP(
        image_part["embed_dim"],
        CLIPVisionCfg(patch_size=patch, image_size=image_part["image_size"], **vision),
        CLIPTextCfg(
            context_length=text_part["length"], vocab_size=text_part["vocab"],
            **resolved(text_part, text.VARIANTS, text_part["variant"]),
        ),
        quick_gelu=args.activation == "quick_gelu",
    ).to(device)  # fmt: skip
    decayed, undecayed = [], []
    for key, p in model.named_parameters():
        (undecayed if p.ndim < 2 or "ln" in key or "bias" in key or "logit_scale" in key else decayed).append(p)
    groups = [{"params": undecayed, "weight_decay": 0.0}, {"params": decayed, "weight_decay": 0.2}]
    optimizer = torch.optim.AdamW(groups, lr=5e-4, betas=(0.9, 0.98), eps=1e-6)
    forward = torch.compile(model) if args.compile else model
    loss = ClipLoss()
    images = torch.randn(args.batch, 3, image_part["image_size"], image_part["image_size"], device=device)
    texts = torch.randint(text_part["vocab"], (args.batch, text_part["length"]), device=device)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=args.dtype == "bfloat16"):
            value = loss(*forward(images, texts))
        value.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        return value

    def steps(count: int) -> dict[str, Any]:
        def run() -> None:
            for _ in range(count):
                values.append(step())
            values.append(values[-1].item())  # waits for the device

        values: list[Any] = []
        facts = {
            "version": f"open_clip {importlib.metadata.version('open_clip_torch')}, torch {torch.__version__}",
            "device": torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} x cpu",
            "parameters": sum(p.numel() for p in model.parameters()),
        }
        return {**facts, **peers.timed(run, 1), "loss": values[-1]}

    return steps


PEERS = {"bigcl": bigcl, "open_clip": open_clip}
PEERS_NEED = {"bigcl": (), "open_clip": ("torch", "open_clip")}


def main() -> None:
    """Measures and prints."""
    parser = peers.parser(__doc__, PEERS)
    parser.add_argument("--model", choices=("B/32", "B/16", "L/14"), default="B/32")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--activation", choices=("gelu", "quick_gelu"), default="gelu", help="OpenAI's is quick_gelu")
    parser.add_argument("--attention", choices=("plain", "cudnn"), default="plain", help="of bigcl's towers, on a GPU")
    parser.add_argument("--compile", action="store_true", help="open_clip under torch.compile")
    parser.add_argument("--steps", type=int, default=2, help="steps in each round")
    args = parser.parse_args()
    if args.peer:
        return peers.serve(PEERS[args.peer](args))
    settings = ("model", "batch", "dtype", "activation", "attention", "compile", "tiny")
    what = {"benchmark": "step", **{k: getattr(args, k) for k in settings}}
    with contextlib.ExitStack() as stack:
        running = {}
        for name, needed in PEERS_NEED.items():
            if reason := peers.missing(*needed):
                peers.report(**what, peer=name, skipped=reason)
            else:
                running[name] = stack.enter_context(peers.Peer("benchmarks.step", name))
        for peer in running.values():
            peer.ask(count=2)  # every buffer is allocated, lazy compilation done
        rounds = [{name: peer.ask(count=args.steps) for name, peer in running.items()} for _ in range(args.rounds)]
    for name in running:
        peers.report(**what, peer=name, **result(args.batch, [r[name] for r in rounds], rounds[0]["bigcl"]))
    if "open_clip" in running:
        peers.report(**what, **ratios(rounds))


def result(batch: int, rounds: list[dict[str, Any]], counted: dict[str, Any]) -> dict[str, Any]:
    """Facts and figures of a peer; FLOPs are those `counted` in bigcl's program, which does the same work."""
    times = peers.summary(rounds)
    tflops = counted["flops"] / times["best_ms"] / 1e9
    facts = {k: rounds[0][k] for k in ("version", "device", "parameters")}
    rates = {"pairs_per_second": batch / times["best_ms"] * 1e3, "tflops": tflops}
    peak = {} if counted["peak_tflops"] is None else {"mfu": tflops / counted["peak_tflops"]}
    return {**facts, "loss": rounds[-1]["loss"], "rounds": len(rounds), **times, **rates, **peak}


def ratios(rounds: list[dict[str, Any]]) -> dict[str, float]:
    """bigcl's pairs/s over open_clip's: at their best, the median over rounds, and per second of all cores."""

    def best(key: str) -> float:
        ours, theirs = (min(r[name][key] for r in rounds) for name in ("bigcl", "open_clip"))
        return theirs / ours

    median = statistics.median(r["open_clip"]["seconds"] / r["bigcl"]["seconds"] for r in rounds)
    return {"ratio": best("seconds"), "ratio_median": median, "ratio_cpu": best("cpu_seconds")}


if __name__ == "__main__":
    main()

"""`bigcl.embed` against its tower alone: `python -m benchmarks.embed [--size B/32] [--batch 64] [--batches 12]`.

The image tower of a CLIP model of random weights embeds a tar of JPEGs. "tower" is the compiled function, called again
and again on one batch that lies on the device; "job" reads, decodes, resizes, embeds and writes shards, all but the
compilation. Both in turn. `--tiny` is a model of seconds, for tests. One JSON line.
"""

from bigcl import host

if __name__ == "__main__":
    host.prepare()

import argparse
import json
import pathlib
import statistics
import tempfile
import time

import jax

from benchmarks.input import write_tar
from bigcl import registry
from bigcl.config import plain
from bigcl.embed import Job
from bigcl.embeddings import Shards
from bigcl.experiment import Experiment
from bigcl.mesh import batch_sharding
from bigcl.pretrained import Pretrained
from configs import clip

KEEP = {"kind": "keep", "keys": ["image"]}


def random_model(size: str, tiny: bool) -> Pretrained:
    """A CLIP model as `bigcl.embed` opens one, that reads pictures alone."""
    config = plain(clip.get_config("smoke" if tiny else f"size={size},batch=64"))
    config |= {"tokenizer": None, "data": plain(clip.get_config("smoke"))["data"]}
    state = Experiment(**config).init()
    side = config["task"]["towers"]["image"]["image_size"]
    return Pretrained(
        config["task"],
        jax.device_get(state.params),
        jax.device_get(state.extra),
        tokenizer=None,
        transforms=[{"kind": "resize", "size": side}, {"kind": "center_crop", "size": side}, KEEP],
        identity={},
    )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="B/32", choices=clip.SIZES)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--batches", type=int, default=12, help="in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    host.configure_jax()
    model, count, tower, job_seconds = random_model(args.size, args.tiny), args.batch * args.batches, [], []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_tar(folder / "photographs.tar", count)
        source = registry.build("source", {"kind": "webdataset", "shards": str(folder / "photographs.tar")})
        job = Job(model, source, "key", args.batch, allowed=0.0)
        batch = jax.device_put(job.empty, batch_sharding(model.mesh))
        for round in range(args.rounds + 1):  # the first one compiles
            began = time.perf_counter()
            with jax.set_mesh(model.mesh):
                for _ in range(args.batches):
                    outputs = model.encode.encode(model.encode.params, model.encode.extra, batch)
            jax.block_until_ready(outputs)
            tower.append(time.perf_counter() - began)
            shards = Shards(
                folder / str(round), {"examples": count, "rows": count, "format": "npy", "inputs": ["image"]}
            )
            shards.begin()
            began = time.perf_counter()
            written = [*job.run(shards, shards.missing())]
            job_seconds.append(time.perf_counter() - began)
            assert written == [(count, 0)]
    rates = {name: count / statistics.median(seconds[1:]) for name, seconds in (("tower", tower), ("job", job_seconds))}
    ratios = [alone / whole for alone, whole in zip(tower[1:], job_seconds[1:], strict=True)]
    result = {
        "benchmark": "embed",
        "size": "tiny" if args.tiny else args.size,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "jax": jax.__version__,
        "batch": args.batch,
        **{f"{name}_per_second": rate for name, rate in rates.items()},
        "ratio": statistics.median(ratios),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

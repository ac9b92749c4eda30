"""What the recipes of published methods share: the frame of an experiment of seconds."""

from ml_collections import ConfigDict

from bigcl.config import parse_variant

__all__ = ["parse_variant", "small"]


def small(arg, *, steps, batch, lr, optimizer="adamw", **options):
    """A run of `steps` at a constant rate without weight decay. options: further keys of the optimizer."""
    c = ConfigDict({"seed": arg.seed})
    c.train = {"steps": steps, "batch": batch, "log_every": max(1, steps // 10), "profile": 0}
    c.optim = {
        "optimizer": {"kind": optimizer, **options},
        "lr": lr,
        "schedule": {"kind": "constant", "warmup": 0},
        "clip_norm": None,
    }
    if arg.smoke:
        c.train.update(steps=4, log_every=2)
    return c

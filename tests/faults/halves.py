"""What runs share whose data are pairs of vectors, one the first half of the other."""

from ml_collections import ConfigDict

BATCH = 16


def config(data, steps):
    """Two small towers, rows and checkpoints in quick succession."""
    c = ConfigDict({"seed": 0, "train": {"steps": steps, "batch": BATCH, "log_every": 5, "profile": 0}})
    c.data = data
    c.task = {
        "kind": "two_tower",
        "towers": {
            "a": {"kind": "mlp", "inputs": 6, "widths": [64, 16]},
            "b": {"kind": "mlp", "inputs": 3, "widths": [64, 16]},
        },
    }
    c.optim = {"lr": 1e-2}
    c.checkpoint = {"every": 10}
    return c

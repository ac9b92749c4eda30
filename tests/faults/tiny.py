"""A run that takes seconds and has everything that must survive: dropout, moving average, moments, evaluations, many
checkpoints."""

import numpy as np
from ml_collections import ConfigDict


def get_config(arg=None):
    """Arguments: none."""
    tower = {"width": 16, "depth": 2, "heads": 2, "embed_dim": 8, "dropout": 0.1}
    source = {
        "kind": "synthetic",
        "size": 96,
        "spec": {
            "image": {"shape": [8, 8, 3], "dtype": "uint8"},
            "text": {"shape": [6], "dtype": "int32", "high": 64},
        },
    }
    c = ConfigDict({"seed": 0, "train": {"steps": 300, "batch": 16, "ema": 0.9, "log_every": 5, "profile": 0}})
    c.data = {"source": source}
    c.task = {
        "kind": "two_tower",
        "towers": {
            "image": {"kind": "vit", "image_size": 8, "patch": 4, "pool": "mean", **tower},
            "text": {"kind": "text", "vocab": 64, "length": 6, **tower},
        },
    }
    c.optim = {"lr": 1e-3}
    c.evals = {"retrieval": {"kind": "retrieval", "source": source, "every": 50}}
    c.checkpoint = {"every": 10, "best": "eval/retrieval/text_to_image/recall@1"}
    return c


def parameters(workdir):
    """Every array of the last checkpoint, by path."""
    import orbax.checkpoint as ocp

    folder = workdir / "checkpoints"
    last = max(int(p.name) for p in folder.iterdir() if p.name.isdigit())
    reader, path = ocp.PyTreeCheckpointer(), folder / str(last) / "default"
    plain = ocp.RestoreArgs(restore_type=np.ndarray)  # whatever the processes that wrote them
    args = {k: plain for k in reader.metadata(path).item_metadata.tree}
    return {k: np.asarray(v) for k, v in reader.restore(path, restore_args=args).items()}

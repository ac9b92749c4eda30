"""Lets a torchvision built for CUDA import beside a CPU build of torch, since transformers and open_clip import it."""

import importlib.util
import pathlib
from typing import Any


def declare_operators() -> Any:
    """Declares the operators that torchvision looks up on import, where its own library of them does not load.

    They have no implementation: nothing here calls them.
    """
    spec = importlib.util.find_spec("torchvision")
    if importlib.util.find_spec("torch") is None or spec is None or spec.origin is None:
        return None
    import torch

    try:
        for library in pathlib.Path(spec.origin).parent.glob("_C.*"):
            torch.ops.load_library(library)
    except OSError:
        if hasattr(torch.ops.torchvision, "nms"):  # when this process started
            return None
        operators = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor boxes) -> Tensor")
        return operators
    return None


OPERATORS = declare_operators()  # the declarations end with this object
